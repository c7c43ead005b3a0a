"""One process that takes in what many clients record, and decides which worker executes what, and when."""
