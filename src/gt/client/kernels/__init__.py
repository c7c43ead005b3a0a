"""The kernels of the device, which PyTorch's dispatcher calls for ATen operators."""
