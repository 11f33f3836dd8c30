"""What the demo undoes, by the networks that come along and by single kernels, and the standard methods for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import wiener

from fastdeconv.imaging import degrade, shipped
from fastdeconv.imaging.enhance import Restorer, Upscaler
from fastdeconv.imaging.network import Degradation, NetworkError
from fastdeconv.imaging.resize import bicubic_kernel, resize

Image = NDArray[np.float32]

BLUR_SIGMA = 1.6  # pixels
NOISE_SIGMA = 2 / 255  # of full scale
QUALITY = 40  # of JPEG
# Of 0.001, 0.002, 0.003, 0.005, 0.01 and 0.03 the one with the least squared error on the training photographs.
WIENER_BALANCE = 0.005


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something to undo.

    Attributes
    ----------
    title : str
        What it does, in a few words.
    scale : int
        How much larger the result is than the input.
    border : int
        Pixels shaved for PSNR and SSIM.
    methods : dict from name to callable
        What is known without learning, made from the input; gain is measured over the first.
    degradation : Degradation, optional
        What is undone besides the reduction.
    note : str
        What a reader of the scores should know about the methods.
    """

    title: str
    scale: int
    border: int
    methods: dict[str, Callable[[Image], Image]]
    degradation: Degradation | None = None
    note: str = ""

    def degrade(self, truth: Image, rng: np.random.Generator) -> Image:
        """Make the input from the truth, whose sides the scale divides."""
        return degrade.degrade(truth, self.scale, self.degradation, rng)

    def pretrained(self) -> Upscaler | Restorer:
        """Return the network that comes along for this task.

        Raises
        ------
        NetworkError
            The installation lacks it.
        """
        if self.degradation is None:
            return Upscaler.pretrained(self.scale)
        spoiled = self.degradation
        restorer = Restorer.pretrained(spoiled.blur[0], spoiled.noise[0], spoiled.jpeg[0] if spoiled.jpeg else None)
        if restorer.description.degradation != spoiled:
            raise NetworkError(f"this installation has no network that undoes {spoiled} in {shipped.FOLDER}")
        return restorer


@dataclass(frozen=True, kw_only=True)
class KernelTask(Task):
    """One that a single transposed convolution can do, too.

    Attributes
    ----------
    taps : int
        Odd: taps on each axis that reach one output pixel; the kernel has ``scale·taps``.
    initial_kernel : callable
        Makes the kernel that descent starts from, which does what the first method does.
    """

    taps: int
    initial_kernel: Callable[[int], Image]

    @property
    def kernel_size(self) -> int:
        """Side of the kernel."""
        return self.scale * self.taps

    @property
    def padding(self) -> int:
        """Padding that keeps only the output pixels that all their taps reach."""
        return self.scale * (self.taps - 1)

    @property
    def margin(self) -> int:
        """Input pixels needed beyond the output on each side."""
        return (self.taps - 1) // 2


def enlarge(image: Image, scale: int) -> Image:
    """Enlarge by bicubic interpolation."""
    return resize(image, (scale * image.shape[0], scale * image.shape[1]))


def keep(image: Image) -> Image:
    """Return the input as it is."""
    return image


def identity_kernel(size: int) -> Image:
    """Return the kernel of an odd size that changes nothing."""
    kernel = np.zeros((size, size), np.float32)
    kernel[size // 2, size // 2] = 1
    return kernel


def wiener_deblur(image: Image) -> Image:
    """Undo the blur by Wiener filtering with a Laplacian prior: it is told the blur, and its balance was tuned.

    References
    ----------
    ``skimage.restoration.wiener``; Orieux et al., Bayesian estimation of regularization and point spread function
    parameters for Wiener-Hunt deconvolution, JOSA A 27 (2010).
    """
    radius = 4 * np.ceil(BLUR_SIGMA)
    row = np.exp(-0.5 * (np.arange(-radius, radius + 1) / BLUR_SIGMA) ** 2)
    row /= row.sum()
    # It takes the picture for periodic: the mirrored margin keeps the seam away.
    margin = 16
    padded = np.pad(image, margin, mode="symmetric")
    restored = wiener(padded, np.outer(row, row).astype(np.float32), WIENER_BALANCE, clip=False)
    return np.asarray(restored[margin:-margin, margin:-margin], np.float32)


UPSCALE = KernelTask(
    title="Upscale ×2",
    scale=2,
    border=2,
    methods={"bicubic": partial(enlarge, scale=2)},
    taps=9,
    initial_kernel=partial(bicubic_kernel, 2),
)
UPSCALE_4 = Task(title="Upscale ×4", scale=4, border=4, methods={"bicubic": partial(enlarge, scale=4)})
DEBLUR = KernelTask(
    title=f"Undo blur of σ {BLUR_SIGMA} px with noise of σ {NOISE_SIGMA * 255:g}/255",
    scale=1,
    border=8,
    methods={"blurred": keep, "Wiener": wiener_deblur},
    degradation=Degradation((BLUR_SIGMA, BLUR_SIGMA), (NOISE_SIGMA, NOISE_SIGMA)),
    taps=15,
    initial_kernel=identity_kernel,
    note="The Wiener filter is told the blur, and its balance was tuned; kernel and network have seen examples only.",
)
JPEG = Task(
    title=f"Undo JPEG of quality {QUALITY}",
    scale=1,
    border=8,
    methods={"JPEG": keep},
    degradation=Degradation(jpeg=(QUALITY, QUALITY)),
)
TASKS = {"upscale": UPSCALE, "deblur": DEBLUR, "upscale4": UPSCALE_4, "jpeg": JPEG}
KERNEL_TASKS = {name: task for name, task in TASKS.items() if isinstance(task, KernelTask)}
