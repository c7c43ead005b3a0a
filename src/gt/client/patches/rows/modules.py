"""Patches: modules, optimizers and TorchScript."""

from __future__ import annotations

from gt.client.patches import modules, printing, scripts
from gt.client.patches.patch import IDIOM, PATCHED, SCRIPT, Patch

MODULES = (
    Patch(
        "torch.optim.asgd torch.optim.nadam torch.optim.radam",
        "_default_to_fused_or_foreach",
        modules.looping,
        "PyTorch's choice on a device, the foreach form, rounds differently from the loop, its choice on a CPU",
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
        "torch._decomp.decompositions",
        "_rnn_helper",
        modules.dropping_between_layers,
        "the parts of recurrent networks, which a CPU composes in C++, would have no dropout between their layers",
        f"{IDIOM}[dropout_inside_recurrent_networks]",
    ),
    Patch(
        "torch.nn.attention.flex_attention",
        "_validate_device _apply_kernel_options",
        modules.as_on_a_cpu,
        "`flex_attention` knows the devices by name",
        f"{SCRIPT}[attention]",
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
PATCHES = (*MODULES, *SCRIPTS)
