"""The device `remote`: from PyTorch's operators to instructions, and to the dispatcher."""
