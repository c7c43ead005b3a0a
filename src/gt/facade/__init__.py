"""`import gt as torch`: the names of torch, on the remote device."""
