"""Changes to PyTorch's Python, so that code which asks for a CPU's memory or a known device gets its answer."""
