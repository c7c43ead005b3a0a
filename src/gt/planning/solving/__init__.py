"""Solving one call: its operands, what is sharded, the conversions that takes, and where its results are."""
