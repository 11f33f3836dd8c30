"""The two things a learned kernel does here: enlarge a picture, and undo a blur. And the standard methods for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import wiener

from fastdeconv.imaging.degrade import add_noise, blur, cubic, reduce, resize

Image = NDArray[np.float32]

BLUR_SIGMA = 1.6  # pixels
NOISE_SIGMA = 2 / 255  # of full scale
# Of 0.001, 0.002, 0.003, 0.005, 0.01 and 0.03 the one with the least squared error on the training photographs.
WIENER_BALANCE = 0.005


@dataclass(frozen=True)
class Task:
    """A degradation to undo with one transposed convolution.

    Attributes
    ----------
    title : str
        What it does, in a few words.
    stride : int
        How much larger the output is than the input.
    taps : int
        Odd: taps on each axis that reach one output pixel; the kernel has ``stride·taps``.
    border : int
        Pixels shaved for PSNR and SSIM.
    degrade : callable
        Makes the input from the truth and a random generator.
    methods : dict from name to callable
        What is known without learning, made from the input; gain is measured over the first.
    initial_kernel : callable
        Makes the kernel that descent starts from, which does what the first method does.
    note : str
        What a reader of the scores should know about the methods.
    """

    title: str
    stride: int
    taps: int
    border: int
    degrade: Callable[[Image, np.random.Generator], Image]
    methods: dict[str, Callable[[Image], Image]]
    initial_kernel: Callable[[int], Image]
    note: str = ""

    @property
    def kernel_size(self) -> int:
        """Side of the kernel."""
        return self.stride * self.taps

    @property
    def padding(self) -> int:
        """Padding that keeps only the output pixels that all their taps reach."""
        return self.stride * (self.taps - 1)

    @property
    def margin(self) -> int:
        """Input pixels needed beyond the output on each side."""
        return (self.taps - 1) // 2


def enlarge(image: Image) -> Image:
    """Enlarge to twice the size by bicubic interpolation."""
    return resize(image, (2 * image.shape[0], 2 * image.shape[1]))


def bicubic_kernel(size: int) -> Image:
    """Return the kernel with which a transposed convolution of stride 2 is bicubic interpolation."""
    row = cubic((np.arange(size) - (size - 1) / 2) / 2)
    return np.outer(row, row).astype(np.float32)


def identity_kernel(size: int) -> Image:
    """Return the kernel of an odd size that changes nothing."""
    kernel = np.zeros((size, size), np.float32)
    kernel[size // 2, size // 2] = 1
    return kernel


def spoil(image: Image, rng: np.random.Generator) -> Image:
    """Blur with a Gaussian of `BLUR_SIGMA` pixels and add noise of `NOISE_SIGMA`."""
    return add_noise(blur(image, BLUR_SIGMA), NOISE_SIGMA, rng)


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


UPSCALE = Task(
    title="Upscale ×2",
    stride=2,
    taps=9,
    border=4,
    degrade=lambda image, rng: reduce(image, 2),
    methods={"bicubic": enlarge},
    initial_kernel=bicubic_kernel,
)
DEBLUR = Task(
    title=f"Undo blur of σ {BLUR_SIGMA} px with noise of σ {NOISE_SIGMA * 255:g}/255",
    stride=1,
    taps=15,
    border=8,
    degrade=spoil,
    methods={"blurred": lambda image: image, "Wiener": wiener_deblur},
    initial_kernel=identity_kernel,
    note="The Wiener filter is told the blur, and its balance was tuned; the kernel has seen examples only.",
)
TASKS = {"upscale": UPSCALE, "deblur": DEBLUR}
