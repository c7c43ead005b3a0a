"""What a program records: instructions, and the tensors, geometries, lines and scopes that they speak of. Sends nothing."""
