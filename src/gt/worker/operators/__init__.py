"""The operators that a worker runs: which, what is known of them, and the kernels that GT adds."""
