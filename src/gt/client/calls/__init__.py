"""From an operator and its arguments to a call that the worker knows: what it makes, by inference or by asking."""
