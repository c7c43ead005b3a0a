"""Operands that PyTorch's kernels do not check themselves: rules for sizes, strides and elements, by operator."""
