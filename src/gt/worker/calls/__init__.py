"""A definition becomes a prepared call: its arguments, its direct way, its runs."""
