"""Gradients for kernels that are long on the last axis."""
