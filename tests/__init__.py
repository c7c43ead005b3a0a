"""Tests."""

import os

# A test keeps more processes busy than there are cores: threads that spin while they wait (of libgomp, which reads this as
# torch is imported) take them from those that compute.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
