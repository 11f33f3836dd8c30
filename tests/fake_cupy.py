"""A CuPy of as many GPUs as a test wants: memory is NumPy's, and kernels run on the machine for PTX.

`install` puts it where ``import cupy`` finds it. It has what fastdeconv uses and nothing else, and is strict: functions
of NumPy refuse its arrays, and a kernel runs on the device it was loaded on only. Launches are recorded with their
stream.
"""

import contextlib
import importlib.machinery
import math
import sys
import time
import types

import numpy as np
from ptx_machine import Machine, Program

from fastdeconv import calls, dispatch
from fastdeconv.cuda import cost as _cost
from fastdeconv.cuda import plan as _plan
from fastdeconv.cuda import run as _run
from fastdeconv.cuda import runtime as _runtime


class CUDARuntimeError(RuntimeError):
    pass


class CUDADriverError(RuntimeError):
    pass


class State:
    """The devices, the current one, and what happened."""

    def __init__(self, count=1, capability="80", stub=False):
        self.count, self.capability, self.stub = count, capability, stub
        self.current = 0
        self.stream = 0
        self.launches = []  # (device, stream, kernel's name)
        self.synchronized = 0
        self.transfers = []
        self.programs = {}
        self.machine = Machine()
        self.placed = {}  # by the identity of the array that owns the memory: that array and its address


STATE = State()


ATTRIBUTES = {
    "MultiProcessorCount": 108, "ClockRate": 1_410_000, "MemoryClockRate": 1_215_000,
    "GlobalMemoryBusWidth": 5120, "SingleToDoublePrecisionPerfRatio": 2,
}  # fmt: skip


class Device:
    def __init__(self, id=None):
        self.id = STATE.current if id is None else id

    compute_capability = property(lambda self: STATE.capability)
    attributes = property(lambda self: ATTRIBUTES)

    mem_info = property(lambda self: (2**33, 2**34))

    def __enter__(self):
        self.before, STATE.current = STATE.current, self.id
        return self

    def __exit__(self, *_):
        STATE.current = self.before


class Pointer:
    """Where an array begins in the machine's global memory."""

    def __init__(self, array):
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if id(owner) not in STATE.placed:
            STATE.placed[id(owner)] = owner, STATE.machine.place(owner.ravel(order="K"))
        start, first = (a.__array_interface__["data"][0] for a in (owner, array))
        self.ptr = STATE.placed[id(owner)][1] + first - start


class ndarray:  # noqa: N801
    """Memory of a device: a NumPy array with its attributes and methods, but none to NumPy's functions."""

    __array_ufunc__ = None

    def __init__(self, array, device=None):
        self._array = array
        self._device = STATE.current if device is None else device

    def _wrapped(self, value):
        return ndarray(value, self._device) if isinstance(value, np.ndarray) else value

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._array, name)
        if not callable(value):
            return self._wrapped(value)
        return lambda *a, **k: self._wrapped(value(*(_host(each) for each in a), **k))

    def __setattr__(self, name, value):
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._array, name, _host(value))

    def __len__(self):
        return len(self._array)

    def __getitem__(self, key):
        key = tuple(map(_host, key)) if isinstance(key, tuple) else _host(key)
        return self._wrapped(self._array[key])

    def __setitem__(self, key, value):
        self._array[key] = _host(value)

    def __neg__(self):
        return self._wrapped(-self._array)

    def __add__(self, other):
        return self._wrapped(self._array + _host(other))

    def __sub__(self, other):
        return self._wrapped(self._array - _host(other))

    def __rmul__(self, other):
        return self._wrapped(other * self._array)

    def __rtruediv__(self, other):
        return self._wrapped(other / self._array)

    def __iadd__(self, other):
        self._array += _host(other)
        return self

    def __isub__(self, other):
        self._array -= _host(other)
        return self

    def __imul__(self, other):
        self._array *= _host(other)
        return self

    def __itruediv__(self, other):
        self._array /= _host(other)
        return self

    def __abs__(self):
        return self._wrapped(abs(self._array))

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    __cuda_array_interface__ = property(lambda self: self._array.__array_interface__)
    device = property(lambda self: Device(self._device))
    data = property(lambda self: Pointer(self._array))

    def get(self, stream=None, out=None, blocking=True):
        STATE.transfers.append(("down", self._array.nbytes))
        if out is None:
            return self._array.copy()
        out[...] = self._array
        return out

    def set(self, array, stream=None):
        STATE.transfers.append(("up", array.nbytes))
        self._array[...] = array


def _operator(name):
    def call(self, other):
        result = getattr(self._array, name)(_host(other))
        return NotImplemented if result is NotImplemented else self._wrapped(result)

    return call


# What stands above is as CuPy has it, too; these are the operators that remain.
for _name in ("radd", "rsub", "mul", "truediv", "le", "lt", "ge", "gt", "eq", "ne"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


def _host(value):
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value._array if isinstance(value, ndarray) else value


class Function:
    def __init__(self, module, name):
        assert name == module.program.name
        self.module = module

    def __call__(self, grid, block, arguments, shared_mem=0, stream=None):
        assert STATE.current == self.module.device, "launched on another device than the kernel was loaded on"
        STATE.launches.append((STATE.current, STATE.stream, self.module.program.name))
        if STATE.stub:
            return
        STATE.machine.launch(self.module.program, grid, block, [a.item() for a in arguments])


class Module:
    def load(self, ptx):
        if b".version" not in ptx:
            raise CUDADriverError("CUDA_ERROR_INVALID_PTX: a PTX JIT compilation failed")
        self.device = STATE.current
        self.program = STATE.programs.setdefault(ptx, None) or Program(ptx.decode())
        STATE.programs[ptx] = self.program

    def get_function(self, name):
        return Function(self, name)


class MemoryPool:
    """Has as much as is asked for."""

    def malloc(self, nbytes):
        return alloc(nbytes)

    def set_limit(self, size):
        assert size > 0

    def free_all_blocks(self):
        pass


class Stream:
    def __init__(self, number=0, non_blocking=False):
        self.number = number

    def record(self):
        return Event()

    def wait_event(self, event):
        pass

    def synchronize(self):
        STATE.synchronized += 1

    def __enter__(self):
        self.before, STATE.stream = STATE.stream, self.number
        return self

    def __exit__(self, *_):
        STATE.stream = self.before


class Event:
    """A mark in a stream; here everything is done at once."""

    def record(self):
        self.at = time.perf_counter()

    def synchronize(self):
        STATE.synchronized += 1


def get_elapsed_time(start, end):
    return 1e3 * (end.at - start.at)


def get_device_count():
    if STATE.count < 0:
        raise CUDARuntimeError(
            "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
        )
    if STATE.count == 0:
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return STATE.count


class Foreign:
    """An array of another library in the memory of the current device."""

    def __init__(self, array):
        self.__cuda_array_interface__ = array.__array_interface__
        self.keep = array


def asarray(value, dtype=None):
    if isinstance(value, ndarray):
        return value
    if isinstance(value, Foreign):
        return ndarray(value.keep)
    STATE.transfers.append(("up", value.nbytes))
    return ndarray(np.array(value))


def from_dlpack(value):
    return ndarray(np.array(np.from_dlpack(value))) if hasattr(value, "__dlpack__") else asarray(value)


def ascontiguousarray(array):
    return array if array.flags.c_contiguous else array.copy("C")


def array(value, order="C"):
    return value.copy(order) if isinstance(value, ndarray) else asarray(value)


def empty(shape, dtype="float64"):
    made = np.empty(shape, dtype)
    made.reshape(-1).view(np.uint8)[:] = 0xFF
    return ndarray(made)


def zeros(shape, dtype="float64"):
    return ndarray(np.zeros(shape, dtype))


def zeros_like(array):
    return zeros(array.shape, array.dtype)


def ones(shape, dtype="float64"):
    return ndarray(np.ones(shape, dtype))


def copyto(target, source):
    np.copyto(target._array, source._array)


def matmul(a, b, out=None):
    product = a._array @ b._array
    if out is None:
        return ndarray(product)
    out._array[...] = product
    return out


def _of_numpy(name):
    """Return a function of CuPy that does what NumPy's does, on this CuPy's arrays alone."""

    def call(*arguments, out=None):
        result = getattr(np, name)(*map(_host, arguments), out=_host(out))
        return ndarray(result) if out is None else out

    return call


def may_share_memory(a, b):
    return np.may_share_memory(a._array, b._array)


def alloc(nbytes):
    return Pointer(np.full(nbytes, 0xFF, np.uint8))


def install(monkeypatch, **state):
    """Make ``import cupy`` find this; the keywords are those of `State`. Return the state."""
    global STATE
    STATE = State(**state)
    fake = types.ModuleType("cupy")
    fake.__version__ = "14.0 (a fake)"
    fake.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    for name, value in {
        "ndarray": ndarray, "asarray": asarray, "array": array, "empty": empty, "from_dlpack": from_dlpack,
        "ascontiguousarray": ascontiguousarray, "may_share_memory": may_share_memory,
        "zeros": zeros, "zeros_like": zeros_like, "ones": ones, "copyto": copyto, "matmul": matmul,
        **{name: _of_numpy(name) for name in
           ("abs", "add", "clip", "exp", "isfinite", "log10", "maximum", "minimum", "multiply", "sign", "sqrt",
            "square", "subtract", "tanh")},
        "repeat": lambda a, count, axis: ndarray(np.repeat(_host(a), count, axis)),
        "where": lambda *arguments: ndarray(np.where(*map(_host, arguments))),
    }.items():  # fmt: skip
        setattr(fake, name, value)
    runtime = types.SimpleNamespace(
        getDeviceCount=get_device_count, getDevice=lambda: STATE.current, CUDARuntimeError=CUDARuntimeError,
        getDeviceProperties=lambda index: {"name": b"Fake GPU"}, driverGetVersion=lambda: 13010,
        runtimeGetVersion=lambda: 13000,
    )  # fmt: skip
    fake.cuda = types.SimpleNamespace(
        Device=Device, Stream=Stream, Event=Event, get_elapsed_time=get_elapsed_time, runtime=runtime, alloc=alloc,
        get_current_stream=lambda: Stream(STATE.stream), MemoryPool=MemoryPool,
        using_allocator=lambda allocator: contextlib.nullcontext(),
        memory=types.SimpleNamespace(OutOfMemoryError=MemoryError),
        function=types.SimpleNamespace(Module=Module), driver=types.SimpleNamespace(CUDADriverError=CUDADriverError),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy", fake)
    fake_cupyx = types.ModuleType("cupyx")
    fake_cupyx.empty_pinned = np.empty
    monkeypatch.setitem(sys.modules, "cupyx", fake_cupyx)
    special = types.ModuleType("cupyx.scipy.special")
    special.erfc = lambda a: ndarray(np.vectorize(math.erfc)(a._array).astype(a.dtype))
    for name, module in (("cupyx.scipy", types.ModuleType("cupyx.scipy")), ("cupyx.scipy.special", special)):
        monkeypatch.setitem(sys.modules, name, module)
    of_runtime = (_runtime.target, _runtime.function, _runtime.ptx)
    for cached in (*of_runtime, _plan.table, _run._bias_bound, _cost._limits, dispatch.choose):
        cached.cache_clear()
    calls._cached_plan.cache_clear()
    return STATE
