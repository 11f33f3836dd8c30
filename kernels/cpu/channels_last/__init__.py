"""Kernels for arrays with channels last, (N, D, H, W, C), as they lie: vectors run along channels."""
