"""All programs, by name."""

from __future__ import annotations

from tests.oracle.sharding.programs import batches, gradients, models, optimizers, parameters, several
from tests.oracle.sharding.programs.program import Program

MODULES = (parameters, optimizers, gradients, models, batches, several)
PROGRAMS = {one.name: one for module in MODULES for one in vars(module).values() if isinstance(one, Program)}
