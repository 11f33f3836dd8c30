"""Calls on a GPU: arrays of CuPy and those that share memory with it, kernels of `fastdeconv.kernels.cuda`."""
