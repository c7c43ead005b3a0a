"""`gt run`: a program that was not changed, and the libraries that it imports, with GT's torch."""
