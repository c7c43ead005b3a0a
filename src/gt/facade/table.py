"""The table of patches about the name "cpu" in files that say `import gt as torch`, and about files of weights: see
`client/patches/table.py`.
"""

from __future__ import annotations

import torch

from gt.client.patches import by_device
from gt.client.patches.patch import PATCHED, SCRIPT, Patch
from gt.facade import cpu_alias, libraries, tensor_types, weight_files

PATCHES = (
    Patch(
        "torch.nn.Module",
        "to cpu",
        libraries.telling,
        "a library that moves a remote model back to this process is one warning",
        f"{PATCHED}::test_a_library_that_moves_a_model_back_is_one_warning",
    ),
    Patch(
        "torch.Tensor torch.nn.Module",
        "to",
        cpu_alias.to_device,
        '`.to("cpu")` in a ported file means the remote device',
        f"{SCRIPT}[one_device]",
    ),
    Patch(
        "torch.Tensor",
        "type",
        cpu_alias.type_of,
        "the names of a CPU's types have no device in them",
        f"{PATCHED}::test_a_ported_file_names_the_cpu_and_means_the_device",
    ),
    Patch(
        "torch.Tensor",
        "as_subclass",
        tensor_types.as_subclass,
        "`torch.Tensor` of a ported file is a stand-in, which no tensor is an instance of",
        f"{SCRIPT}[tensor_types]",
    ),
    Patch(
        "torch.nn.parameter.UninitializedTensorMixin",
        "_allowed_methods",
        lambda allowed: [*allowed, torch.Tensor.to],
        "a lazy module's parameters go by a list of methods, in which the patched `to` must be",
        "tests/oracle/test_modules.py::test_a_lazy_module_moves_before_it_knows_its_shapes",
    ),
    Patch(
        "torch.Tensor",
        "new_tensor new_empty new_empty_strided new_full new_ones new_zeros",
        cpu_alias.new_like,
        'so does `device="cpu"` here',
        f"{PATCHED}::test_a_ported_file_names_the_cpu_and_means_the_device",
    ),
    Patch(
        "torch.nn.Module",
        "to_empty",
        cpu_alias.new_like,
        'so does `device="cpu"` here',
        f"{PATCHED}::test_a_ported_file_names_the_cpu_and_means_the_device",
    ),
    Patch(
        "torch.nn.Transformer",
        "generate_square_subsequent_mask",
        cpu_alias.made_for_ported,
        "a mask goes with a ported file's tensors, where it names no other device",
        f"{SCRIPT}[attention]",
    ),
    Patch(
        "torch.library.Library",
        "impl",
        cpu_alias.kernel_for_both,
        "a kernel for the CPU is one for the device that takes the CPU's part as well",
        f"{SCRIPT}[custom_operators]",
    ),
    Patch(
        "torch.nn.Module",
        "compile",
        cpu_alias.not_compiling,
        "workers decide what to compile",
        f"{PATCHED}::test_a_ported_file_compiles_no_module",
    ),
    Patch(
        "safetensors safetensors.torch",
        "safe_open",
        by_device.standing_for("safetensors", weight_files.RemoteFile, weight_files.opens_remotely),
        "the library knows the devices by name",
        f"{PATCHED}::test_the_library_of_safetensors_reads_files_onto_the_device",
    ),
    Patch(
        "safetensors.torch",
        "save_file",
        weight_files.written_by_workers,
        "the library needs all tensors in this process, so `save_pretrained` would hold a model that no worker can",
        "tests/oracle/sharding/test_memory.py::test_save_pretrained_leaves_the_model_where_it_is",
    ),
)
