"""What happens when PyTorch's dispatcher hands an ATen operator to the device."""
