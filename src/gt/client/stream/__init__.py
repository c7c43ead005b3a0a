"""Recording: instructions, and the tensors, geometries, source lines and scopes in them. Nothing here sends."""
