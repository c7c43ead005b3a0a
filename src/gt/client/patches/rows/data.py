"""The table of patches: all that GT changes in PyTorch's Python (and two hooks of Python's own) when it is imported.

`facade/table.py` has those about the name "cpu". Rows of one owner may name a private name of PyTorch's: then it is the one
place through which all that is meant goes.
"""

from __future__ import annotations

from gt.client.kernels import autocast, flop_counter, linear
from gt.client.patches import (
    accelerator,
    arrays,
    by_device,
    destructors,
    engine,
    generators,
    modules,
    printing,
    saved,
    scripts,
    storages,
    streams,
    tensors,
    warning_lines,
)
from gt.client.patches.patch import Patch

IDIOM = "tests/oracle/test_idioms.py::test_an_idiom_gives_the_cpus_results"
PATCHED = "tests/oracle/test_patched.py"
SCRIPT = "tests/oracle/test_facade.py::test_the_same_file_prints_the_same"
SAVED = "tests/oracle/test_facade.py::test_what_was_saved_needs_no_device_to_be_named_and_comes_back_to_its_own"
ACCELERATOR = "tests/oracle/test_accelerator.py"

TENSORS = (
    Patch(
        "torch.Tensor",
        "__reduce_ex__",
        tensors.without_operand,
        "a pickle must not hold the cached operand",
        f"{PATCHED}::test_a_pickle_names_nothing_of_gt",
    ),
    Patch(
        "torch.nn.Parameter",
        "__reduce_ex__",
        tensors.without_operand,
        "the same: it overrides the method",
        f"{PATCHED}::test_a_pickle_names_nothing_of_gt",
    ),
    Patch(
        "torch.Tensor",
        "_reduce_ex_internal",
        tensors.pickled_parts,
        "a sparse tensor is saved by its parts, not as one of a device without storages",
        SAVED,
    ),
    Patch(
        "torch.Tensor",
        "data",
        tensors.data,
        "modules move by `parameter.data = other`, also between devices, and autograd must see which memory was replaced",
        f"{IDIOM}[parameters_that_move_are_the_same_objects]",
    ),
    Patch(
        "torch.Tensor",
        "data_ptr",
        storages.data_ptr,
        "libraries tell tensors apart by their addresses, and a remote one has none in this process",
        f"{IDIOM}[data_pointers]",
    ),
    Patch(
        "torch._C",
        "_set_default_dtype _set_default_tensor_type",
        tensors.forgetting_definitions,
        "definitions were inferred under the default dtype of their time",
        f"{PATCHED}::test_dtypes_follow_the_default_dtype_whatever_was_learnt_under_another",
    ),
)
ARRAYS = (
    Patch(
        "torch.Tensor",
        "numpy",
        arrays.to_numpy,
        "an array is made of fetched elements",
        f"{PATCHED}::test_an_array_and_its_tensor_share_what_is_written",
    ),
    Patch(
        "torch.Tensor",
        "__array_wrap__",
        arrays.from_array,
        "the result of a NumPy function goes where its operand is",
        f"{PATCHED}::test_the_result_of_a_numpy_function_is_where_its_operand_is",
    ),
    Patch(
        "torch.Tensor",
        "__eq__",
        arrays.equals,
        "the one operator that takes an array; C++ would make a CPU tensor of it",
        f"{PATCHED}::test_a_tensor_is_compared_with_an_array",
    ),
    Patch(
        "torch.Tensor",
        "__dlpack__",
        arrays.to_dlpack,
        "another library takes over a copy on the CPU",
        f"{PATCHED}::test_another_library_takes_over_a_copy",
    ),
    Patch(
        "torch.Tensor",
        "__dlpack_device__",
        arrays.dlpack_device,
        "what is taken over is on the CPU",
        f"{PATCHED}::test_another_library_takes_over_a_copy",
    ),
    Patch(
        "torch.Tensor",
        "apply_ map_ map2_",
        arrays.element_wise,
        "a Python function computes each element here",
        f"{SCRIPT}[elements_and_texts]",
    ),
)
STORAGES = (
    Patch(
        "torch.UntypedStorage",
        " ".join(storages.ANSWERS),
        storages.answering,
        "in C++ a remote storage has 0 bytes; the worker has its memory",
        f"{SCRIPT}[storages]",
    ),
    Patch(
        "torch.UntypedStorage",
        "copy_",
        storages.copying,
        "also into a local storage, as `torch.distributed.checkpoint.async_save` copies",
        f"{PATCHED}::test_a_storage_of_the_cpu_is_filled_from_a_remote_one",
    ),
    Patch(
        "torch.UntypedStorage",
        "__new__",
        storages.new_storage,
        "a storage may be made on the device",
        f"{PATCHED}::test_a_storage_is_made_on_the_device",
    ),
)
FILES = (
    Patch(
        "torch.serialization",
        "_save",
        saved.saving,
        "storages are the CPU's in a file, and a record marks the remote ones",
        SAVED,
    ),
    Patch(
        "torch.serialization",
        "_load",
        saved.loading,
        "marked storages become remote again",
        SAVED,
    ),
    Patch(
        "torch.serialization",
        "_legacy_save",
        saved.saving_legacy,
        "the same in the format before zip files",
        SAVED,
    ),
    Patch(
        "torch.serialization",
        "_legacy_load",
        saved.loading_legacy,
        "the same in the format before zip files",
        SAVED,
    ),
    Patch(
        "torch.serialization",
        "_get_restore_location",
        saved.restoring,
        "a `map_location` is asked about the device that a marked storage had",
        SAVED,
    ),
    Patch(
        "torch.export",
        "save load",
        saved.naming_devices,
        "an exported program names devices, in a module that is imported with the first file",
        SAVED,
    ),
)
MODULES = (
    Patch(
        "torch.optim.asgd torch.optim.nadam torch.optim.radam",
        "_default_to_fused_or_foreach",
        modules.looping,
        "PyTorch's choice on a device, the foreach form, rounds otherwise than the loop, its choice on a CPU",
        "tests/oracle/test_idioms.py::test_optimizers_step_as_on_the_cpu",
    ),
    Patch(
        "torch.optim.swa_utils",
        "_get_foreach_kernels_supported_devices",
        modules.without_remote,
        "lists of integers are averaged one by one, as on a CPU",
        f"{PATCHED}::test_buffers_of_integers_are_averaged",
    ),
    Patch(
        "torch.nn.parallel.data_parallel",
        "_get_available_device_type",
        modules.no_devices,
        "`DataParallel` calls its module, as where there is only a CPU",
        f"{PATCHED}::test_data_parallel_calls_its_module",
    ),
    Patch(
        "torch.nn.TransformerEncoder",
        "forward",
        modules.encoding_padded,
        "nested tensors are not carried to workers",
        f"{IDIOM}[an_encoder_that_leaves_out_padding]",
    ),
    Patch(
        "torch.nn.LinearCrossEntropyOptions",
        "_adjust",
        modules.precision_of_cpu,
        "`linear_cross_entropy` chooses its precision by the kind of device",
        f"{PATCHED}::test_linear_cross_entropy_has_the_cpus_precision",
        since="2.13",
    ),
    Patch(
        "torch.nn.ParameterList torch.nn.ParameterDict",
        "extra_repr",
        printing.without_device,
        "the device of parameters is where it always is, so it is not named",
        f"{SCRIPT}[elements_and_texts]",
    ),
)
PRINTING = (
    Patch(
        "torch._tensor_str",
        "_tensor_str",
        printing.elements,
        "elements are printed from one fetch",
        f"{PATCHED}::test_a_tensor_is_printed_from_one_fetch",
    ),
    Patch(
        "torch._tensor_str",
        "_str_intern",
        printing.text,
        "the device is the default one, and `grad_fn` has the CPU's name",
        f"{IDIOM}[printing_what_has_a_history]",
    ),
)
SCRIPTS = (
    Patch(
        "torch.jit.ScriptModule",
        "_apply",
        scripts.moving,
        "C++ holds the parameters, and must be given those that moved",
        f"{SCRIPT}[torchscript]",
    ),
    Patch(
        "torch.jit.ScriptModule torch.jit.RecursiveScriptModule torch.jit.ScriptFunction",
        "save save_to_buffer",
        scripts.saving,
        "C++ writes what is in this process's memory, and a file names no device that others do not know",
        f"{SCRIPT}[torchscript]",
    ),
    Patch("torch.jit", "load", scripts.loading, "C++ reads into this process's memory", f"{SCRIPT}[torchscript]"),
    Patch(
        "torch.nn.Module",
        "compile",
        scripts.not_compiling,
        "workers decide what to compile",
        f"{PATCHED}::test_a_remote_module_is_not_compiled",
    ),
)
AUTOGRAD = (
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
DEVICE = (
    Patch(
        "torch",
        "Generator",
        by_device.standing_for("torch", generators.Generator, generators.is_for_remote),
        "C++ makes generators for devices that have a C++ hook",
        "tests/oracle/test_generators.py::test_a_generator_for_the_device_draws_a_cpus_numbers",
    ),
    Patch(
        "torch",
        "Stream",
        by_device.standing_for("torch", streams.Stream, streams.is_stream_for_remote),
        "in C++ a stream of a Python device never waits",
        f"{ACCELERATOR}::test_streams_and_events_wait_for_the_worker",
    ),
    Patch(
        "torch",
        "Event",
        by_device.standing_for("torch", streams.Event, streams.is_event_for_remote),
        "in C++ an event of a Python device never waits, and has no time",
        f"{ACCELERATOR}::test_streams_and_events_wait_for_the_worker",
    ),
    Patch(
        "torch.accelerator torch.accelerator.memory",
        "empty_cache empty_host_cache get_memory_info memory_stats memory_allocated max_memory_allocated memory_reserved"
        " max_memory_reserved reset_accumulated_memory_stats reset_peak_memory_stats",
        accelerator.answering,
        "they reach for C++ hooks that a Python device cannot give",
        f"{ACCELERATOR}::test_memory_is_counted",
        since="2.13",
    ),
    Patch(
        "torch.accelerator",
        "synchronize set_device_index set_device_idx current_stream",
        accelerator.answering,
        "the same: in C++ nothing waits, and every index is accepted",
        f"{ACCELERATOR}::test_streams_and_events_wait_for_the_worker",
        since="2.13",
    ),
    Patch(
        "torch.accelerator",
        "get_device_capability",
        accelerator.capability,
        "the same",
        f"{ACCELERATOR}::test_the_accelerator_says_which_dtypes_are_converted",
        since="2.13",
    ),
    Patch(
        "torch.accelerator.device_index",
        "__enter__",
        accelerator.checking_index,
        "the same",
        f"{ACCELERATOR}::test_another_index_than_the_one_device_has_is_an_error",
        since="2.13",
    ),
)
PROCESS = (
    Patch(
        "warnings",
        "_showwarnmsg",
        warning_lines.naming_users_line,
        "a warning names the user's line, not the one of GT that stands in between",
        f"{SCRIPT}[warned]",
    ),
    Patch(
        "sys",
        "unraisablehook",
        destructors.raising_again,
        "Ctrl-C in a destructor would be lost",
        "tests/oracle/test_program_end.py::test_a_destructor_that_computes_when_the_session_has_ended_is_told_so",
    ),
)
PATCHES = (*TENSORS, *ARRAYS, *STORAGES, *FILES, *MODULES, *PRINTING, *SCRIPTS, *AUTOGRAD, *DEVICE, *PROCESS)
