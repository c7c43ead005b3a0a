"""Patches: the autograd engine, its hooks, and what is recorded beside it."""

from __future__ import annotations

from gt.client.kernels import autocast, flop_counter, linear
from gt.client.patches import engine
from gt.client.patches.patch import IDIOM, PATCHED, Patch

PATCHES = (
    Patch(
        "torch.Tensor",
        "register_hook",
        engine.guarding_tensor_hook(engine.wrong_size),
        "an exception in a hook would end the process: C++ destructors call Python",
        f"{IDIOM}[a_tensor_hook_that_raises]",
    ),
    Patch(
        "torch.Tensor",
        "register_post_accumulate_grad_hook",
        engine.guarding_tensor_hook(engine.wrong_size),
        "the same",
        f"{IDIOM}[a_post_accumulate_hook_that_raises]",
    ),
    Patch(
        "torch.autograd.function._HookMixin",
        "_register_hook",
        engine.guarding_node_hook,
        "the same for hooks of nodes",
        f"{IDIOM}[hooks_of_nodes_that_raise]",
    ),
    Patch(
        "torch.autograd.graph.saved_tensors_hooks",
        "__init__",
        engine.guarding_unpacking,
        "the same for hooks of saved tensors",
        f"{IDIOM}[a_saved_tensor_hook_that_raises]",
    ),
    Patch(
        "torch._C._autograd.SavedTensor",
        "register_hooks",
        engine.guarding_unpacking,
        "the same for hooks of one saved tensor",
        f"{IDIOM}[hooks_of_one_saved_tensor]",
    ),
    Patch(
        "torch.autograd.graph torch.autograd",
        "_engine_run_backward",
        engine.entering,
        "on the caller's thread, with its line, with the exceptions that hooks have kept, and the CPU's names of types",
        f"{IDIOM}[changed_since_it_was_saved]",
    ),
    Patch(
        "torch.autograd.forward_ad",
        "enter_dual_level exit_dual_level",
        linear.watching_levels,
        "forward-mode AD does not know the node that `linear` has here",
        "tests/oracle/test_linear.py::test_forward_mode_knows_it",
    ),
    Patch(
        "torch._C",
        "_create_function_from_trace _create_function_from_trace_with_dict _create_graph_by_tracing",
        linear.watching_tracers,
        "nor does the tracer",
        "tests/oracle/test_aside.py::test_a_gradient_is_traced_through_a_linear_layer",
    ),
    Patch(
        "torch._C.ScriptModule",
        "_create_method_from_trace _create_method_from_trace_with_dict",
        linear.watching_tracers,
        "the same for methods",
        f"{PATCHED}::test_a_method_is_traced_through_a_linear_layer",
    ),
    Patch(
        "torch.utils.flop_counter.FlopCounterMode",
        "__enter__ __exit__",
        flop_counter.counting,
        "a counter counts the parts that composites are made of",
        f"{IDIOM}[counted_operations]",
    ),
    Patch(
        "torch.autograd.profiler",
        "_enable_profiler _disable_profiler",
        flop_counter.counting,
        "a profiler names the parts that composites are made of",
        f"{PATCHED}::test_a_profiler_counts_the_operators_that_a_cpus_does_each_time",
    ),
    Patch(
        "torch",
        "clear_autocast_cache",
        autocast.forgetting_casts,
        "the casts of parameters are kept here until the outermost region ends",
        f"{PATCHED}::test_casts_of_parameters_are_forgotten_with_their_region",
    ),
)
