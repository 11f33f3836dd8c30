"""Transposed-convolution kernels: arrays and integers in, nothing of the package above."""

if __name__ != "fastdeconv.kernels":
    raise ImportError(
        f"this folder is the package fastdeconv.kernels; it was imported as {__name__!r}: install fastdeconv"
    )
