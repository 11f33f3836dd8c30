"""Transposed convolution by minimal filtering, and plain matrix products as its simplest case."""
