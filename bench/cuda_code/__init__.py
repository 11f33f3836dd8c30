"""Device kernels as machine code for every architecture: what they use, and what their hot loops are made of."""
