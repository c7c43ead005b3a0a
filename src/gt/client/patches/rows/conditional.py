"""Patches that only some programs get: those with a configuration, those under `gt explain` or `gt check`, ported ones."""

from __future__ import annotations

from gt.client.patches import default_generator, inspected, marks
from gt.client.patches.patch import SCRIPT, Patch

MARKS = "tests/oracle/sharding/test_marks.py"
EXPLAINED = "tests/cluster/test_inspection.py::test_a_tensor_parallel_step_is_explained"

SHARDED = (
    Patch(
        "torch.nn.Module",
        "_call_impl",
        marks.marks.calling,
        "where tensors are sharded: the arguments of the root module, what its parts are given and return, and all names",
        f"{MARKS}::test_scopes_place_what_enters_and_leaves_them",
    ),
    Patch(
        "torch.nn.Module",
        "register_parameter",
        marks.marks.registering,
        "where tensors are sharded: a parameter that is made on the workers has a name at once, so that none holds all",
        "tests/oracle/sharding/test_memory.py::test_no_worker_ever_holds_the_whole_model",
    ),
    Patch(
        "torch.nn.Module",
        "_apply",
        marks.marks.moving,
        "the same for one that is moved there",
        "tests/oracle/sharding/test_memory.py::test_no_worker_ever_holds_the_whole_model",
    ),
)
"""Where a configuration is in force."""
INSPECTED = (
    Patch(
        "torch.nn.Module",
        "_call_impl",
        inspected.steps.calling,
        "under `gt explain` and `gt check`: which module is called, and where a forward pass begins",
        EXPLAINED,
    ),
    Patch(
        "torch.autograd.graph torch.autograd",
        "_engine_run_backward",
        inspected.steps.passing,
        "the same: where a backward pass begins and ends",
        EXPLAINED,
    ),
)
"""Under `gt explain` and `gt check`; before those of a configuration."""
JOINED = (
    Patch(
        "torch torch.random",
        "default_generator",
        default_generator.of_both,
        "in a ported program: draws in this process and on the worker form one sequence",
        f"{SCRIPT}[default_generator]",
    ),
)
"""In a ported program."""
