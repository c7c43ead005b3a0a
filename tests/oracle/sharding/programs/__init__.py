"""Programs as their users write them, on every layout of a table, against PyTorch on a CPU."""
