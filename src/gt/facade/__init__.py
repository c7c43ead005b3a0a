"""`import gt as torch`: the names of torch, as GT has them."""
