"""Image restoration and enlargement on top of the kernels."""
