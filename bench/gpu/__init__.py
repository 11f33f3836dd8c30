"""``python -m bench gpu``: kernels checked on the device, then timed beside cuDNN and the device's own limits."""
