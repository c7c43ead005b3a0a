"""The loss by chunks against PyTorch's cross-entropy of all logits."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

F = torch.nn.functional
VOCABULARY, WIDTH = 331, 12
Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def inputs(dtype: torch.dtype, device: str = "cpu", ignored: float = 0.5) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Hidden states [3, 41, WIDTH], a head, and targets of which a share is ignored."""
    torch.manual_seed(0)
    hidden = torch.randn(3, 41, WIDTH, dtype=dtype).to(device).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype).to(device).requires_grad_()
    random = np.random.default_rng(0)
    targets = random.integers(0, VOCABULARY, (3, 41))
    targets[random.random(targets.shape) < ignored] = -100
    return hidden, weight, targets


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: np.ndarray, bf16: bool = False) -> torch.Tensor:
    with torch.autocast(hidden.device.type, torch.bfloat16, enabled=bf16):
        logits = F.linear(hidden, weight)
    wide = torch.promote_types(logits.dtype, torch.float32)
    labels = torch.from_numpy(targets).flatten().to(hidden.device)
    return F.cross_entropy(logits.to(wide).flatten(0, 1), labels, reduction="sum")


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).double().norm() / expected.double().norm()).item()


def both(scripts: ModuleType, dtype: torch.dtype, ignored: float, chunk: int | None) -> tuple[Found, Found]:
    """(loss, gradient of hidden, gradient of weight) by chunks and plain; the loss divided as in training."""
    found = []
    for chunked in (True, False):
        hidden, weight, targets = inputs(dtype, ignored=ignored)
        loss = (
            scripts.loss.chunked_cross_entropy(hidden, weight, targets, chunk) if chunked else plain(hidden, weight, targets)
        )
        (loss / 7).backward()
        found.append((loss.detach(), hidden.grad, weight.grad))
    return found[0], found[1]


@pytest.mark.parametrize("ignored", [0.0, 0.5])
@pytest.mark.parametrize(
    ("dtype", "bound", "chunk"),
    [
        *((torch.float64, 1e-12, chunk) for chunk in (None, 1, 16, 1000)),
        *((torch.float32, 1e-5, chunk) for chunk in (None, 1, 16)),
        *((torch.bfloat16, 1e-2, chunk) for chunk in (None, 16)),
    ],
)
def test_value_and_gradients_are_those_of_all_logits(
    dtype: torch.dtype, bound: float, ignored: float, chunk: int | None, scripts: ModuleType
) -> None:
    found, expected = both(scripts, dtype, ignored, chunk)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert relative(one, other) <= bound


def test_under_autocast_it_is_as_near_to_float64_as_all_logits_are(
    scripts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.loss, "BLOCK", 100)
    hidden, weight, targets = inputs(torch.float64)
    exact = (plain(hidden, weight, targets), *torch.autograd.grad(plain(hidden, weight, targets), (hidden, weight)))
    errors = []
    for chunked in (True, False):
        hidden, weight, targets = inputs(torch.float64)
        hidden, weight = (x.detach().float().requires_grad_() for x in (hidden, weight))
        with torch.autocast("cpu", torch.bfloat16):
            loss = scripts.loss.chunked_cross_entropy(hidden, weight, targets, 16) if chunked else None
        loss = plain(hidden, weight, targets, bf16=True) if loss is None else loss
        assert loss.dtype == torch.float32
        loss.backward()
        errors.append([relative(one, other) for one, other in zip((loss, hidden.grad, weight.grad), exact, strict=True)])
    assert max(errors[0]) < 0.01
    assert errors[0] <= [1.2 * error + 1e-6 for error in errors[1]]


@pytest.mark.parametrize("bf16", [False, True])
def test_on_a_worker_it_gives_the_bits_of_local_torch(bf16: bool, scripts: ModuleType) -> None:
    found = []
    for device in ("cpu", "remote"):
        hidden, weight, targets = inputs(torch.float32, device)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = scripts.loss.chunked_cross_entropy(hidden, weight, targets, 16)
        (loss / 7).backward()
        found.append([tensor.cpu() for tensor in (loss.detach(), hidden.grad, weight.grad)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_only_the_gradients_that_are_asked_for_are_made(scripts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = inputs(torch.float32)
    expected = scripts.loss.chunked_cross_entropy(hidden, weight, targets)
    frozen = weight.detach()
    scripts.loss.chunked_cross_entropy(hidden, frozen, targets).backward()
    assert relative(hidden.grad, torch.autograd.grad(plain(hidden, frozen, targets), hidden)[0]) <= 1e-5
    assert frozen.grad is None
    monkeypatch.setattr(scripts.loss, "_with_product", None)
    with torch.no_grad():
        assert scripts.loss.chunked_cross_entropy(hidden, weight, targets) == expected
    assert not scripts.loss.chunked_cross_entropy(hidden.detach(), frozen, targets).requires_grad


def test_without_any_target_the_loss_and_the_gradients_are_zero(scripts: ModuleType) -> None:
    hidden, weight, targets = inputs(torch.float32)
    loss = scripts.loss.chunked_cross_entropy(hidden, weight, np.full_like(targets, -100))
    loss.backward()
    assert (loss.item(), hidden.grad.abs().sum().item(), weight.grad.abs().sum().item()) == (0, 0, 0)


def test_a_second_backward_pass_is_refused(scripts: ModuleType) -> None:
    loss = scripts.loss.chunked_cross_entropy(*inputs(torch.float32))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="for one backward pass only"):
        loss.backward()


def test_tied_embeddings_get_the_gradients_of_both_uses(scripts: ModuleType) -> None:
    random = np.random.default_rng(0)
    ids, targets = random.integers(0, 97, (2, 2, 13))
    found = []
    for chunked in (True, False):
        torch.manual_seed(0)
        model = scripts.model.Qwen3(scripts.config.Config(97, 32, 1, 4, 2, 8, 40, tie_word_embeddings=True))
        hidden, head = model(torch.from_numpy(ids), head=False), model.lm_head.weight
        loss = scripts.loss.chunked_cross_entropy(hidden, head, targets, 5) if chunked else plain(hidden, head, targets)
        loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(relative(one, other) <= 1e-5 for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("vocabulary", [6_000, pytest.param(151_936, marks=pytest.mark.long)])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-autocast"])
def test_it_takes_less_than_a_tenth_of_the_logits(vocabulary: int, precision: str, scripts: ModuleType) -> None:
    """The gradients of the hidden states and of the weight are not counted as the loss's."""
    tokens, dtype = 4096, torch.bfloat16 if precision == "bf16" else torch.float32
    hidden = torch.randn(tokens, 8, dtype=dtype, device="remote").requires_grad_()
    weight = torch.randn(vocabulary, 8, dtype=dtype, device="remote").requires_grad_()
    targets = np.random.default_rng(0).integers(0, vocabulary, tokens)
    torch.remote.synchronize()
    before = torch.remote.memory_allocated()
    torch.remote.reset_peak_memory_stats()
    with torch.autocast("remote", torch.bfloat16, enabled=precision == "bf16-autocast"):
        loss = scripts.loss.chunked_cross_entropy(hidden, weight, targets)
    loss.backward()
    torch.remote.synchronize()
    gradients = (hidden.numel() + weight.numel()) * dtype.itemsize
    share = (torch.remote.max_memory_allocated() - before - gradients) / (tokens * vocabulary * 4)
    assert share <= (0.07 if precision == "fp32" else 0.1)
