"""What GT changes in PyTorch's Python, so that code which asks for a CPU's memory or another device gets its answer."""
