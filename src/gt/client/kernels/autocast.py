"""`torch.autocast("remote", dtype)`: the CPU's lists of operators, with the same casts.

PyTorch's C++ tables exist for its own devices only; a Python device brings its own casting kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from gt.client.calls.schemas import overload

KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
LOWER = [
    "conv1d",
    "conv1d.padding",
    "conv2d",
    "conv2d.padding",
    "conv3d",
    "conv3d.padding",
    "bmm",
    "mm",
    "linalg_vecdot",
    "baddbmm",
    "addmm",
    "addbmm",
    "linear",
    "_convolution.deprecated",
    "matmul",
    "conv_tbc",
    "conv_transpose1d",
    "conv_transpose2d.input",
    "conv_transpose3d.input",
    "scaled_dot_product_attention",
    "_native_multi_head_attention",
    "prelu",
    "_addmm_activation",
    "lstm.input",
    "lstm.data",
]
"""Run in the autocast dtype (ATen/autocast_mode.h, AT_FORALL_LOWER_PRECISION_FP for the CPU, which has `mkldnn_rnn_layer`
where `lstm` stands here)."""
FP32 = [
    "avg_pool3d",
    "binary_cross_entropy",
    "grid_sampler",
    "polar",
    "prod",
    "prod.dim_int",
    "prod.dim_Dimname",
    "quantile",
    "quantile.scalar",
    "nanquantile",
    "nanquantile.scalar",
    "stft",
    "stft.center",
    "cdist",
    "grid_sampler_2d",
    "_grid_sampler_2d_cpu_fallback",
    "grid_sampler_3d",
    "trace",
    "view_as_complex",
    "cholesky",
    "cholesky_inverse",
    "cholesky_solve",
    "inverse",
    "lu_solve",
    "orgqr",
    "ormqr",
    "pinverse",
    "max_pool3d",
    "max_unpool2d",
    "max_unpool3d",
    "adaptive_avg_pool3d",
    "reflection_pad1d",
    "reflection_pad2d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "mse_loss",
    "cosine_embedding_loss",
    "nll_loss",
    "nll_loss2d",
    "hinge_embedding_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "cross_entropy_loss",
    "l1_loss",
    "huber_loss",
    "margin_ranking_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "multi_margin_loss",
    "ctc_loss.IntList",
    "ctc_loss.Tensor",
    "kl_div",
    "multilabel_margin_loss",
    "binary_cross_entropy_with_logits",
    "fft_fft",
    "fft_ifft",
    "fft_fft2",
    "fft_ifft2",
    "fft_fftn",
    "fft_ifftn",
    "fft_rfft",
    "fft_irfft",
    "fft_rfft2",
    "fft_irfft2",
    "fft_rfftn",
    "fft_irfftn",
    "fft_hfft",
    "fft_ihfft",
    "linalg_cond",
    "linalg_cond.p_str",
    "linalg_matrix_rank",
    "linalg_matrix_rank.tol_tensor",
    "linalg_matrix_rank.atol_rtol_tensor",
    "linalg_matrix_rank.atol_rtol_float",
    "linalg_solve",
    "linalg_cholesky",
    "linalg_svdvals",
    "linalg_eigvals",
    "linalg_eigvalsh",
    "linalg_inv",
    "linalg_householder_product",
    "linalg_tensorinv",
    "linalg_tensorsolve",
    "fake_quantize_per_tensor_affine",
    "geqrf",
    "_lu_with_info",
    "qr",
    "svd",
    "triangular_solve",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "adaptive_max_pool3d",
    "multilabel_margin_loss_forward",
    "linalg_qr",
    "linalg_cholesky_ex",
    "linalg_svd",
    "linalg_eig",
    "linalg_eigh",
    "linalg_lstsq",
    "linalg_inv_ex",
]
"""Run in float32."""
PROMOTE = ["stack", "cat", "index_copy", "index_copy.dimname"]
"""Run in the widest dtype among their operands."""


_kept: dict[tuple[int, bool], tuple[torch.Tensor, torch.Tensor]] = {}
"""Parameters and their casts, with and without gradient, until the outermost region ends: the gradients of one that is used
twice add up in the cast's dtype, as on the CPU."""


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        if value.device.type != "remote" or not value.is_floating_point() or value.dtype in (dtype, torch.float64):
            return value
        return _cast_once(value, dtype) if _is_kept(value, dtype) else value.to(dtype)
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(v, dtype) for v in value)
    return value


def _is_kept(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether C++ would cache this cast on its own devices (`cached_cast`)."""
    trained = tensor.dtype == torch.float32 and tensor.requires_grad and tensor.is_leaf and not tensor._is_view()
    return trained and dtype == torch.get_autocast_dtype("remote") and torch.is_autocast_cache_enabled()


def _cast_once(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    key = id(tensor), torch.is_grad_enabled()
    found = _kept.get(key)
    if found is None:
        found = _kept[key] = (tensor, tensor.to(dtype))
    return found[1]


def forgetting_casts(original: Callable[[], None]) -> Callable[[], None]:
    """The patch of `torch.clear_autocast_cache`."""

    @functools.wraps(original)
    def clear_autocast_cache() -> None:
        _kept.clear()
        original()

    return clear_autocast_cache


def _widest(values: Any) -> torch.dtype:
    dtype = torch.get_autocast_dtype("remote")
    for value in values:
        if isinstance(value, (list, tuple)):
            dtype = torch.promote_types(dtype, _widest(value))
        elif isinstance(value, torch.Tensor) and value.is_floating_point():
            dtype = torch.promote_types(dtype, value.dtype)
    return dtype


def _kernel(name: str, policy: str) -> Any:
    op = overload(name)

    def run(*args: Any, **kwargs: Any) -> Any:
        if policy == "lower":
            dtype = torch.get_autocast_dtype("remote")
        else:
            dtype = torch.float32 if policy == "fp32" else _widest((*args, *kwargs.values()))
        with torch._C._ExcludeDispatchKeyGuard(KEY):
            return op(*[_cast(a, dtype) for a in args], **{k: _cast(v, dtype) for k, v in kwargs.items()})

    return run


def register(library: torch.library.Library, fallback: torch.library.Library) -> None:
    """Register the casting kernels, and a fallthrough for all other operators."""
    fallback.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for names, policy in ((LOWER, "lower"), (FP32, "fp32"), (PROMOTE, "promote")):
        for name in names:
            if torch._C._dispatch_has_kernel(f"aten::{name}"):
                library.impl(name, _kernel(name, policy), "AutocastPrivateUse1")
