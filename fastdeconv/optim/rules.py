"""Update rules: what their options mean, and what of it a kernel is told."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

from numpy.typing import NDArray

from fastdeconv.kernels.cpu.updates import AMSGRAD, CENTERED, DECAY, L1, MOMENTUM, NESTEROV
from fastdeconv.optim.checks import by_name, flag, fraction, number
from fastdeconv.optim.update import Update

Array = NDArray[Any]


@dataclass(frozen=True)
class Optimizer(ABC):
    """What all update rules share.

    Parameters
    ----------
    learning_rate : float, optional
        Positive. None lets `fastdeconv.fit_kernel` choose it; `start` needs it.
    weight_decay : float
        Not negative. Times the parameter, it is added to the gradient (AdamW: it shrinks the parameter directly).
    l1 : float
        Not negative. Times the parameter's signs, it is added to the gradient: the penalty ``l1 · Σ|w|``, which torch
        leaves to the loss.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    weight_decay: float = 0.0
    l1: float = 0.0

    # The name of the kernel.
    _kernel: ClassVar[str]

    def __post_init__(self) -> None:
        if self.learning_rate is not None:
            number("learning_rate", self.learning_rate, positive=True)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("momentum", "dampening", "alpha"):
                fraction(field.name, value)
            elif field.name in ("weight_decay", "l1", "eps"):
                number(field.name, value)
            elif field.name in ("nesterov", "amsgrad", "centered"):
                flag(field.name, value)

    @property
    @abstractmethod
    def memory(self) -> int:
        """Steps after which the rule has forgotten a gradient, near enough; a shorter look misjudges its progress."""

    @abstractmethod
    def _buffers(self) -> tuple[str | None, ...]:
        """Return the kernel's running means by torch's names; None where the rule has no use for one."""

    @abstractmethod
    def _own_settings(self, count: int, rate: float) -> tuple[float, ...]:
        """Return the numbers that the kernel takes after those of all rules, at a step counted from 1."""

    def _scaled(self, count: int, rate: float) -> float:
        """Return the rate that multiplies the direction."""
        return rate

    def _settings(self, count: int, rate: float) -> tuple[float, ...]:
        """Return all the kernel's numbers."""
        return self._scaled(count, rate), self.weight_decay, self.l1, *self._own_settings(count, rate)

    def _flags(self) -> int:
        """Return what the kernel does, in bits."""
        return DECAY * bool(self.weight_decay) | L1 * bool(self.l1)

    def start(self, parameter: Array) -> Update:
        """Return ``update(gradient, factor=1.0)``, which changes an array in place.

        Parameters
        ----------
        parameter : ndarray
            C-contiguous, float32 or float64, of NumPy or CuPy.

        Raises
        ------
        TypeError, ValueError
            It is no such array, or the rule has no learning rate.
        """
        return Update(self, parameter)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent; with momentum (Polyak's) or Nesterov's momentum if asked.

    Parameters
    ----------
    learning_rate, weight_decay, l1
        As in `Optimizer`.
    momentum, dampening : float
        From 0 to below 1.
    nesterov : bool
        Needs momentum, and no dampening.

    References
    ----------
    Sutskever et al., On the importance of initialization and momentum in deep learning, 2013; ``torch.optim.SGD``.
    """

    _: KW_ONLY
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    _kernel: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError(
                f"nesterov=True needs momentum above 0 and dampening=0; got momentum={self.momentum}, "
                f"dampening={self.dampening}"
            )

    @property
    def memory(self) -> int:
        """An oscillation under momentum shrinks by ``√momentum`` a step, to 1/150 in ``10 / (1 - momentum)``."""
        return round(10 / (1 - self.momentum))

    def _buffers(self) -> tuple[str | None, ...]:
        return ("momentum_buffer" if self.momentum else None,)

    def _own_settings(self, count: int, rate: float) -> tuple[float, ...]:
        # The first gradient starts the sum whole, whatever the dampening.
        return self.momentum, 1.0 if count == 1 else 1 - self.dampening

    def _flags(self) -> int:
        return super()._flags() | MOMENTUM * bool(self.momentum) | NESTEROV * self.nesterov


@dataclass(frozen=True)
class Adam(Optimizer):
    """Steps scaled by running means of the gradient and of its square.

    Parameters
    ----------
    learning_rate, weight_decay, l1
        As in `Optimizer`.
    betas : pair of float
        Decay of the two running means, from 0 to below 1.
    eps : float
        Added to the root of the mean square. Not negative.
    amsgrad : bool
        Use the largest mean square so far.

    References
    ----------
    Kingma and Ba, Adam, 2015; ``torch.optim.Adam``.
    """

    _: KW_ONLY
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False

    _kernel: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise TypeError(f"betas must be a pair of numbers; got {self.betas!r}")
        for beta in self.betas:
            fraction("betas", beta)

    @property
    def memory(self) -> int:
        """The longer of ten times the first mean's and once the second mean's."""
        return round(max(10 / (1 - self.betas[0]), 1 / (1 - self.betas[1])))

    def _buffers(self) -> tuple[str | None, ...]:
        return "exp_avg", "exp_avg_sq", "max_exp_avg_sq" if self.amsgrad else None

    def _scaled(self, count: int, rate: float) -> float:
        return rate / (1 - self.betas[0] ** count)

    def _own_settings(self, count: int, rate: float) -> tuple[float, ...]:
        beta1, beta2 = self.betas
        return self._kept(rate), 1 - beta1, beta2, 1 - beta2, 1 / math.sqrt(1 - beta2**count), self.eps

    def _kept(self, rate: float) -> float:
        """Return what the parameter is multiplied by first."""
        return 1.0

    def _flags(self) -> int:
        return super()._flags() | AMSGRAD * self.amsgrad


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay bypasses the running means.

    Parameters
    ----------
    learning_rate, weight_decay, l1, betas, eps, amsgrad
        As in `Adam`; weight_decay is 0.01 unless given.

    References
    ----------
    Loshchilov and Hutter, Decoupled weight decay regularization, 2019; ``torch.optim.AdamW``.
    """

    _: KW_ONLY
    weight_decay: float = 0.01

    def _kept(self, rate: float) -> float:
        return 1 - rate * self.weight_decay

    def _flags(self) -> int:
        return super()._flags() & ~DECAY


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Steps scaled by a running mean of the gradient's square.

    Parameters
    ----------
    learning_rate, weight_decay, l1
        As in `Optimizer`.
    alpha, momentum : float
        Decay of the running mean, and momentum; from 0 to below 1.
    eps : float
        Added to the root of the mean square. Not negative.
    centered : bool
        Scale by the running standard deviation instead.

    References
    ----------
    Tieleman and Hinton, Lecture 6.5, Neural Networks for Machine Learning, 2012; ``torch.optim.RMSprop``.
    """

    _: KW_ONLY
    alpha: float = 0.99
    momentum: float = 0.0
    eps: float = 1e-8
    centered: bool = False

    _kernel: ClassVar[str] = "rmsprop"

    @property
    def memory(self) -> int:
        """The longer of ten times the momentum's and once the mean square's."""
        return round(max(10 / (1 - self.momentum), 1 / (1 - self.alpha)))

    def _buffers(self) -> tuple[str | None, ...]:
        mean = "grad_avg" if self.centered else None
        return "square_avg", mean, "momentum_buffer" if self.momentum else None

    def _own_settings(self, count: int, rate: float) -> tuple[float, ...]:
        return self.alpha, 1 - self.alpha, self.eps, self.momentum

    def _flags(self) -> int:
        return super()._flags() | MOMENTUM * bool(self.momentum) | CENTERED * self.centered


_OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": SGD,
    "momentum": lambda: SGD(momentum=0.9),
    "nesterov": lambda: SGD(momentum=0.9, nesterov=True),
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
}


def as_optimizer(optimizer: Any) -> Optimizer:
    """Return an update rule from its name, or the rule itself.

    Raises
    ------
    TypeError, ValueError
    """
    return by_name("optimizer", optimizer, Optimizer, _OPTIMIZERS, "optim.Adam(betas=(0.9, 0.99))")
