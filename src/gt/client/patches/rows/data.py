"""Patches: what tensors, arrays and storages hold, how they print, and how they are saved."""

from __future__ import annotations

from gt.client.patches import arrays, printing, saved, storages, tensors
from gt.client.patches.patch import IDIOM, PATCHED, SCRIPT, Patch

SAVED = "tests/oracle/test_facade.py::test_what_was_saved_needs_no_device_to_be_named_and_comes_back_to_its_own"

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
    Patch(
        "torch._tensor_str",
        "_add_suffixes",
        printing.suffixes,
        "the CPU's name of `grad_fn` decides whether it is on a new line",
        f"{SCRIPT}[elements_and_texts]",
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
PATCHES = (*TENSORS, *ARRAYS, *STORAGES, *PRINTING, *FILES)
