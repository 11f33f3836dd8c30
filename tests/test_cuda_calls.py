"""Calls on arrays of a GPU, from the public functions to the PTX, on a fake CuPy."""

import sys

import fake_cupy
import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda compiles the kernels")

import fastdeconv as fd
from fastdeconv.cuda import cost, runtime
from fastdeconv.kernels import cache
from fastdeconv.kernels.cuda import device, gather_gemm, weight_gemm
from fastdeconv.kernels.cuda.factory import identity
from fastdeconv.problem import numpy_dtype
from fastdeconv.tensorflow import conv2d_transpose

RNG = np.random.default_rng(3)
PARAMETERS = {"stride": 2, "padding": 1}
X, W, B = (RNG.integers(-3, 4, shape).astype("f4") for shape in ((2, 3, 5, 6), (3, 8, 4, 4), (8,)))
Y = fd.conv_transpose2d(X, W, B, **PARAMETERS)
GY = RNG.integers(-3, 4, Y.shape).astype("f4")


@pytest.fixture
def gpu(monkeypatch):
    return fake_cupy.install(monkeypatch)


@pytest.fixture
def two_gpus(monkeypatch):
    return fake_cupy.install(monkeypatch, count=2)


@pytest.fixture
def stub(monkeypatch):
    """A GPU whose launches compute nothing."""
    return fake_cupy.install(monkeypatch, stub=True)


def up(*arrays):
    return [fake_cupy.asarray(a) for a in arrays]


def same(got, want):
    assert isinstance(got, fake_cupy.ndarray)
    np.testing.assert_array_equal(got.get(), want)


def integers(*shape, dtype="float32"):
    return RNG.integers(-3, 4, shape).astype(dtype)


class TestPasses:
    def test_forward(self, gpu):
        same(fd.conv_transpose2d(*up(X, W, B), **PARAMETERS), Y)
        same(fd.conv_transpose2d(*up(X, W), **PARAMETERS), fd.conv_transpose2d(X, W, **PARAMETERS))

    def test_gradients(self, gpu):
        for got, want in zip(
            fd.conv_transpose2d_vjp(*up(GY, X, W, B), **PARAMETERS), fd.conv_transpose2d_vjp(GY, X, W, B, **PARAMETERS)
        ):
            same(got, want)
        gy, x, w = up(GY, X, W)
        same(fd.grad.conv_transpose2d_input(X.shape, w, gy, **PARAMETERS),
             fd.grad.conv_transpose2d_input(X.shape, W, GY, **PARAMETERS))  # fmt: skip
        same(fd.grad.conv_transpose2d_weight(x, W.shape, gy, **PARAMETERS),
             fd.grad.conv_transpose2d_weight(X, W.shape, GY, **PARAMETERS))  # fmt: skip
        same(fd.grad.conv_transpose2d_bias(gy), GY.sum((0, 2, 3)))

    @pytest.mark.parametrize(("ndim", "x", "w"), [
        (1, (7,), (3,)), (1, (2, 7), (2, 3, 3)), (1, (3, 2, 7), (2, 3, 3)),
        (2, (5, 6), (3, 3)), (2, (2, 5, 6), (2, 3, 3, 3)),
        (3, (3, 4, 3), (2, 3, 2)), (3, (2, 3, 4, 3), (2, 3, 2, 3, 2)), (3, (1, 2, 3, 4, 3), (2, 3, 2, 3, 2)),
    ], ids=str)  # fmt: skip
    def test_axes(self, gpu, ndim, x, w):
        """With and without batch and channels."""
        x, w = integers(*x), integers(*w)
        call = getattr(fd, f"conv_transpose{ndim}d")
        same(call(*up(x, w), stride=2), call(x, w, stride=2))

    def test_weights_that_reach_no_output(self, gpu):
        x, w, b = (np.ones(shape, "f2") for shape in ((1, 2, 1, 1), (2, 3, 1, 1), (3,)))
        parameters = {"stride": 3, "padding": 1, "output_padding": 2}
        for algorithm in ("gather_gemm", None):
            got = fd.conv_transpose2d(*up(x, w, b), algorithm=algorithm, **parameters)
            same(got, fd.conv_transpose2d(x, w, b, **parameters))


class TestMemory:
    def test_any_strides(self, gpu):
        x = fake_cupy.asarray(np.ascontiguousarray(X.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
        w = fake_cupy.asarray(np.ascontiguousarray(W.transpose(3, 2, 1, 0))).transpose(3, 2, 1, 0)
        same(fd.conv_transpose2d(x, w, *up(B), **PARAMETERS), Y)
        wide = fake_cupy.asarray(np.repeat(X, 2, axis=3))
        same(fd.conv_transpose2d(wide[:, :, :, ::2], *up(W, B), **PARAMETERS), Y)
        turned = fake_cupy.asarray(np.ascontiguousarray(X[:, :, ::-1]))
        same(fd.conv_transpose2d(turned[:, :, ::-1], *up(W, B), **PARAMETERS), Y)
        one = fake_cupy.asarray(X[:1])
        twice = fake_cupy.ndarray(np.broadcast_to(one._array, X.shape))
        same(fd.conv_transpose2d(twice, *up(W, B), **PARAMETERS), np.repeat(Y[:1], 1, 0)[[0, 0]])

    def test_out(self, gpu):
        out = fake_cupy.empty(Y.shape, "f4")
        assert fd.conv_transpose2d(*up(X, W, B), out=out, **PARAMETERS) is out
        same(out, Y)
        last = fake_cupy.empty((*Y.shape[:1], *Y.shape[2:], Y.shape[1]), "f4").transpose(0, 3, 1, 2)
        fd.conv_transpose2d(*up(X, W, B), out=last, **PARAMETERS)
        same(last, Y)
        gw = fake_cupy.empty(W.shape[::-1], "f4").transpose(3, 2, 1, 0)
        fd.grad.conv_transpose2d_weight(*up(X), W.shape, *up(GY), out=gw, **PARAMETERS)
        same(gw, fd.grad.conv_transpose2d_weight(X, W.shape, GY, **PARAMETERS))

    def test_bad_out(self, gpu):
        x, w, b = up(X, W, B)
        for out, error, text in (
            (np.empty_like(Y), ValueError, "out must be on cuda:0, where the other arrays are; got cpu"),
            (fake_cupy.empty(Y.shape, "f8"), TypeError, "out must have the result's dtype float32"),
            (fake_cupy.empty(Y.shape[1:], "f4"), ValueError, "out must have the result's shape"),
            (fake_cupy.ndarray(np.broadcast_to(np.zeros(1, "f4"), Y.shape)), ValueError, "out must"),
        ):
            with pytest.raises(error, match=text):
                fd.conv_transpose2d(x, w, b, out=out, **PARAMETERS)
        with pytest.raises(ValueError, match="out must not overlap input"):
            fd.conv_transpose2d(x, fake_cupy.asarray(integers(3, 3, 1, 1)), out=x)

    def test_empty(self, gpu):
        y = fd.conv_transpose2d(*up(X[:0], W), **PARAMETERS)
        assert y.shape == (0, *Y.shape[1:])
        gw = fd.grad.conv_transpose2d_weight(*up(X[:0]), W.shape, *up(GY[:0]), **PARAMETERS)
        same(gw, np.zeros_like(W))
        assert gpu.launches == []


class TestElementTypes:
    @pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64", "int8", "uint16"])
    def test_every_type(self, gpu, dtype):
        kind = numpy_dtype(dtype)
        x, w, b = (abs(a).clip(0, 2).astype(kind) for a in (integers(1, 2, 3, 4), integers(2, 5, 2, 2), integers(5)))
        y = fd.conv_transpose2d(x, w, b, stride=2)
        got = fd.conv_transpose2d(*up(x, w, b), stride=2)
        assert got.dtype == kind
        gradients = fd.conv_transpose2d_vjp(*up(y, x, w, b), stride=2)
        for each, want in zip((got, *gradients), (y, *fd.conv_transpose2d_vjp(y, x, w, b, stride=2))):
            assert each.dtype == kind
            np.testing.assert_array_equal(each.get().astype("f8"), want.astype("f8"))

    @pytest.mark.parametrize("dtype", ["complex64"])
    def test_lowered(self, gpu, dtype):
        x, w = integers(1, 2, 3, 4), integers(2, 3, 2, 2)
        x, w = (x + 1j * x[..., ::-1]).astype(dtype), (w - 2j * w[::-1]).astype(dtype)
        y = fd.conv_transpose2d(x, w, stride=2)
        same(fd.conv_transpose2d(*up(x, w), stride=2), y)
        for got, want in zip(
            fd.conv_transpose2d_vjp(*up(y, x, w), stride=2), fd.conv_transpose2d_vjp(y, x, w, stride=2)
        ):
            assert want is None or np.array_equal(got.get(), want)

    def test_refused(self, gpu):
        with pytest.raises(TypeError, match="input must have one of the dtypes"):
            fd.conv_transpose2d(*up(X.astype(bool), W))
        with pytest.raises(TypeError, match="input and weight must have one dtype; input is float64"):
            fd.conv_transpose2d(*up(X.astype("f8"), W))


class TestDevices:
    def test_host_arrays_are_sent(self, gpu):
        y = fd.conv_transpose2d(X, W, B, device="cuda", **PARAMETERS)
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, Y)
        assert [way for way, _ in gpu.transfers] == ["up"] * 4 + ["down"]  # with a table
        out = np.full(Y.shape, np.nan, "f4", order="F")
        assert fd.conv_transpose2d(X, W, B, device="cuda:0", out=out, **PARAMETERS) is out
        np.testing.assert_array_equal(out, Y)

    def test_set_device(self, gpu):
        fd.set_device("cuda")
        try:
            fd.conv_transpose2d(X, W, B, **PARAMETERS)
            assert len(gpu.launches) == 2
            fd.conv_transpose2d(X, W, B, device="cpu", **PARAMETERS)
            assert len(gpu.launches) == 2
        finally:
            fd.set_device(None)

    def test_the_arrays_decide(self, two_gpus):
        with fake_cupy.Device(1):
            x, w, b = up(X, W, B)
        y = fd.conv_transpose2d(x, w, b, **PARAMETERS)
        assert y.device.id == 1
        assert two_gpus.current == 0
        assert {device for device, *_ in two_gpus.launches} == {1}
        same(y, Y)
        same(fd.conv_transpose2d(*up(X, W, B), device="cuda", **PARAMETERS), Y)
        np.testing.assert_array_equal(fd.conv_transpose2d(X, W, B, device="cuda:1", **PARAMETERS), Y)

    def test_mixed(self, two_gpus):
        (x,) = up(X)
        with fake_cupy.Device(1):
            w, out = *up(W), fake_cupy.empty(Y.shape, "f4")
        with pytest.raises(ValueError, match="one device; input is on cuda:0, weight is on cuda:1: move them with"):
            fd.conv_transpose2d(x, w)
        with pytest.raises(ValueError, match="one device; input is on cuda:0, weight is on cpu"):
            fd.conv_transpose2d(x, W)
        with pytest.raises(ValueError, match="one device; weight is on cpu, grad_output is on cuda:0"):
            fd.grad.conv_transpose2d_input(X.shape, W, *up(GY), **PARAMETERS)
        with pytest.raises(ValueError, match="one device; input is on cuda:0, bias is on cpu"):
            fd.conv_transpose2d(x, *up(W), B)
        with pytest.raises(ValueError, match=r"out must be on cuda:0, where the other arrays are; got cuda:1"):
            fd.conv_transpose2d(*up(X, W), out=out, **PARAMETERS)
        with pytest.raises(ValueError, match=r"device must be \"cuda:0\", where the arrays are, or None; got 'cpu'"):
            fd.conv_transpose2d(*up(X, W), device="cpu")
        with pytest.raises(ValueError, match="got 'cuda:1'"):
            fd.conv_transpose2d(*up(X, W), device="cuda:1")

    def test_no_such_device(self, gpu):
        with pytest.raises(RuntimeError, match='there are 1; got "cuda:1"'):
            fd.conv_transpose2d(X, W, device="cuda:1")

    @pytest.mark.parametrize(("state", "text"), [
        ({"count": -1}, "cudaErrorInsufficientDriver.*driver of its CUDA version or later"),
        ({"count": 0}, "cudaErrorNoDevice"),
        ({"capability": "70"}, r"compute capability 7\.0; the kernels need 7\.5"),
    ], ids=str)  # fmt: skip
    def test_unusable(self, monkeypatch, state, text):
        fake_cupy.install(monkeypatch, **state)
        with pytest.raises(RuntimeError, match=text):
            fd.conv_transpose2d(X, W, device="cuda")
        with pytest.raises(RuntimeError, match=text):
            fd.set_device("cuda")
        assert fd.get_device() is None
        np.testing.assert_array_equal(fd.conv_transpose2d(X, W, B, **PARAMETERS), Y)
        np.testing.assert_array_equal(fd.conv_transpose2d(X, W, B, device="auto", **PARAMETERS), Y)

    def test_no_cupy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", None)
        with pytest.raises(RuntimeError, match=r'needs CuPy.*install "fastdeconv\[cuda13\]"'):
            fd.conv_transpose2d(fake_cupy.Foreign(X), W)
        np.testing.assert_array_equal(fd.conv_transpose2d(X, W, B, **PARAMETERS), Y)

    def test_no_compiler(self, gpu, monkeypatch):
        def missing(*_):
            raise OSError("libnvvm cannot be found")

        monkeypatch.setattr(device, "compile_kernel", missing)
        monkeypatch.setattr(cache, "directory", lambda: (None, "gone"))
        with pytest.raises(
            RuntimeError, match=r"needs numba-cuda with NVVM.*libnvvm cannot be found.*fastdeconv\[cuda13\]"
        ):
            fd.conv_transpose2d(*up(X, W))

    def test_a_driver_that_does_not_know_the_ptx(self, gpu, monkeypatch):
        monkeypatch.setattr(runtime, "ptx", lambda *_: "new")
        with pytest.raises(RuntimeError, match=r"cannot load a kernel.*update the driver"):
            fd.conv_transpose2d(*up(X, W))


class TestAuto:
    def test_small_problems_stay(self, gpu):
        fd.conv_transpose2d(X, W, B, device="auto", **PARAMETERS)
        assert gpu.launches == []
        told = str(fd.explain(X, W, pass_="forward", device="auto", **PARAMETERS))
        assert "forward on cpu" in told
        assert "ms on cuda:0 and 0.0" in told

    def test_large_ones_go(self, stub):
        large = "mb32ic512ih64iw64oc512kh4kw4sh2sw2ph1pw1"
        told = str(fd.explain(large, pass_="forward", device="auto"))
        assert "forward on cuda:0" in told
        assert "for transfers, so cuda:0" in told

    def test_the_estimate_grows_with_the_work(self, gpu):
        small, large = (fd.Problem.parse(f"mb{n}ic64ih64iw64oc64kh3kw3ph1pw1") for n in (8, 64))
        for estimate in (cost.on_cpu, cost.transfers, lambda p: cost.on_gpu(p, 0)):
            assert 4 < estimate(large) / estimate(small) < 8.5


class TestStreams:
    def test_the_callers_stream_and_no_waiting(self, stub):
        arrays = up(X, W, B)
        fd.conv_transpose2d(*arrays, **PARAMETERS)
        first = stub.synchronized
        with fake_cupy.Stream(7):
            fd.conv_transpose2d(*arrays, **PARAMETERS)
        assert stub.synchronized == first  # tables are there once
        assert [stream for _, stream, _ in stub.launches] == [0, 0, 7, 7]
        assert [way for way, _ in stub.transfers] == ["up"] * 4

    def test_one_plan_for_each_layout(self, stub):
        x, w, b = up(X, W, B)
        last = fake_cupy.asarray(np.ascontiguousarray(X.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
        for each in (x, last, x, last):
            fd.conv_transpose2d(each, w, b, **PARAMETERS)
        assert sum(way == "up" for way, _ in stub.transfers) == 4 + 2  # the arrays, and two tables


class TestForeign:
    def test_shared_memory(self, gpu):
        same(fd.conv_transpose2d(*map(fake_cupy.Foreign, (X, W, B)), **PARAMETERS), Y)

    def test_comes_back_as_it_came(self, gpu, monkeypatch):
        import types

        library = types.ModuleType("library")
        library.from_dlpack = lambda array: ("theirs", array)
        monkeypatch.setitem(sys.modules, "library", library)
        kind = type("Tensor", (fake_cupy.Foreign,), {"__module__": "library.tensors"})
        mark, y = fd.conv_transpose2d(*map(kind, (X, W, B)), **PARAMETERS)
        assert mark == "theirs"
        same(y, Y)

    def test_a_tensor_that_requires_a_gradient(self, gpu):
        class Tensor:
            @property
            def __cuda_array_interface__(self):
                raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad")

        with pytest.raises(TypeError, match=r"input must share its memory.*requires grad"):
            fd.conv_transpose2d(Tensor(), *up(W))


class TestPrepare:
    def test_weights_are_packed_once(self, gpu):
        x, w, b = up(X, W, B)
        prepared = fd.prepare(w, b, **PARAMETERS)
        for _ in range(3):
            same(prepared(x), Y)
        names = [name for *_, name in gpu.launches]
        assert sum("pack" in name for name in names) == 1
        assert len(names) == 4
        assert prepared.nbytes > 2 * W.nbytes
        assert "gather_gemm" in repr(prepared)

    def test_host_arrays(self, gpu):
        prepared = fd.prepare(W, B, device="cuda", **PARAMETERS)
        np.testing.assert_array_equal(prepared(X), Y)
        np.testing.assert_array_equal(prepared(X, out=np.empty_like(Y)), Y)

    def test_lowered(self, gpu):
        x, w = integers(1, 2, 3, 4) * (1 + 1j), integers(2, 3, 2, 2) * (2 - 1j)
        x, w = x.astype("complex64"), w.astype("complex64")
        same(fd.prepare(*up(w), stride=2)(*up(x)), fd.conv_transpose2d(x, w, stride=2))

    def test_elsewhere(self, gpu):
        with pytest.raises(ValueError, match="input and weight must be on one device"):
            fd.prepare(*up(W))(X)


class TestPrecision:
    def test_words(self, gpu):
        assert fd.get_float32_precision() == "highest"
        try:
            fd.set_float32_precision("high")
            assert 'precision "high"' in str(fd.explain(*up(X, W), pass_="forward"))
        finally:
            fd.set_float32_precision("highest")
        for wrong, error in (("medium", ValueError), (32, TypeError)):
            with pytest.raises(error, match='precision must be "highest" or "high"; got'):
                fd.set_float32_precision(wrong)


def test_tensorflow(gpu):
    last, f = integers(1, 4, 5, 3), integers(3, 3, 2, 3)
    for data_format, x in (("NHWC", last), ("NCHW", np.ascontiguousarray(last.transpose(0, 3, 1, 2)))):
        shape = (1, 8, 10, 2) if data_format == "NHWC" else (1, 2, 8, 10)
        keywords = {"strides": 2, "data_format": data_format}
        same(conv2d_transpose(*up(x, f), shape, **keywords), conv2d_transpose(x, f, shape, **keywords))


def test_what_is_for_the_cpu_only(gpu):
    with pytest.raises(
        TypeError, match=r"x must be a NumPy array here; got fake_cupy\.ndarray: copy it to the CPU first"
    ):
        fd.fit_kernel(*up(X, Y), 4)


def test_info(gpu):
    from fastdeconv.info import report

    assert "cuda:0 Fake GPU, compute capability 8.0" in report()


class TestCache:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cache, "directory", lambda: (tmp_path, ""))
        return tmp_path

    @pytest.fixture
    def compiled(self, monkeypatch):
        """The kernels that are compiled."""
        names = []
        whole = device.compile_kernel

        def noted(kernel, types, capability):
            names.append(kernel.__name__)
            return whole(kernel, types, capability)

        monkeypatch.setattr(device, "compile_kernel", noted)
        return names

    def test_the_next_process_compiles_nothing(self, folder, compiled, monkeypatch):
        for count in (2, 2):
            fake_cupy.install(monkeypatch)
            same(fd.conv_transpose2d(*up(X, W, B), **PARAMETERS), Y)
            assert len(compiled) == count
        assert len(list(folder.glob("*.ptx"))) == 2

    def test_a_damaged_file_is_compiled_again(self, folder, compiled, monkeypatch):
        fake_cupy.install(monkeypatch)
        fd.conv_transpose2d(*up(X, W, B), **PARAMETERS)
        first, second = folder.glob("*.ptx")
        first.write_bytes(first.read_bytes()[:-1])
        second.write_bytes(b"")
        fake_cupy.install(monkeypatch)
        same(fd.conv_transpose2d(*up(X, W, B), **PARAMETERS), Y)
        assert len(compiled) == 4

    def test_kernels_have_names_of_their_own(self):
        names = {
            identity(gather_gemm.kernel(tile, index, "float32", gather_gemm.Loads()))
            for tile in gather_gemm.TILES for index in ("int32", "int64")
        }  # fmt: skip
        assert len(names) == 2 * len(gather_gemm.TILES)
        add = weight_gemm.add_kernel("int32", "float16")
        assert identity(add) == "fastdeconv.kernels.cuda.weight_gemm.add_kernel('int32', 'float16')"
        assert identity(lambda: None) is None
