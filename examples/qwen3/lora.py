"""LoRA: a frozen base, and a product of two small matrices added to each linear layer; in PEFT's own files.

Ordinary PyTorch, as model.py. An adapter has no weights for the head or the embedding: `all-linear` is the layers of the
attention and the MLP, as it is in PEFT.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from checkpoint_files import Save, Saving, save_now
from load_weights import DTYPES, Entry, header, read
from model import Qwen3
from problems import UserError, read_json
from torch import nn

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER = (CONFIG, WEIGHTS)
"""The files of an adapter, as PEFT names them."""
PREFIX = "base_model.model."
"""What PEFT's files put before a module's name."""
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraLinear(nn.Module):
    """base(x) + scale * B(A(dropout(x))): A and B in float32, the frozen base in its own dtype, which is the result's.

    The base's weight and bias keep their names, by which sharding files know them.
    """

    def __init__(self, base: nn.Linear, lora: Lora) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = base.weight, base.bias, lora.scale
        like = {"bias": False, "dtype": torch.float32, "device": base.weight.device}
        self.lora_A = nn.Linear(base.in_features, lora.rank, **like)  # drawn as PEFT draws it: Kaiming with a = sqrt(5)
        self.lora_B = nn.Linear(lora.rank, base.out_features, **like)
        nn.init.zeros_(self.lora_B.weight)
        self.dropout = nn.Dropout(lora.dropout) if lora.dropout else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.linear(x, self.weight, self.bias)
        added = self.lora_B(self.lora_A(self.dropout(x.to(self.lora_A.weight.dtype)))) * self.scale
        return (y + added).to(y.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base with W + scale * B @ A for its weight, computed in float32 (or wider) and rounded once."""
        base, (outputs, inputs) = self.weight, self.weight.shape
        wide = torch.promote_types(base.dtype, torch.float32)
        added = (self.lora_B.weight @ self.lora_A.weight).to(wide) * self.scale
        layer = nn.Linear(inputs, outputs, bias=self.bias is not None, device="meta")
        layer.weight, layer.bias = nn.Parameter((base.to(wide) + added).to(base.dtype), requires_grad=False), self.bias
        return layer


@dataclass(frozen=True)
class Lora:
    """What an adapter is: its rank, its scale, and the layers that have one, by the ends of their names."""

    rank: int = 8
    alpha: float = 16
    dropout: float = 0.0
    rslora: bool = False
    targets: tuple[str, ...] = ALL_LINEAR

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def to_json(self, base: str, revision: str | None = None) -> dict[str, object]:
        """PEFT's adapter_config.json. base: the name or folder of the model that it was trained on; revision: of a name."""
        return {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "revision": revision,
            "inference_mode": True,
            "r": self.rank, "lora_alpha": self.alpha, "lora_dropout": self.dropout, "use_rslora": self.rslora,
            "target_modules": sorted(self.targets), "bias": "none", "init_lora_weights": True, "modules_to_save": None,
        }  # fmt: skip

    @classmethod
    def from_json(cls, path: Path) -> Lora:
        """Read PEFT's adapter_config.json. Raises UserError (naming the key), FileNotFoundError."""
        found = read_json(path)
        _check_supported(path, "peft_type", found.get("peft_type"))
        for key, value in found.items():
            _check_supported(path, key, value)
        targets = found.get("target_modules")
        targets = ALL_LINEAR if targets == "all-linear" else targets
        if not isinstance(targets, list | tuple) or not all(isinstance(target, str) for target in targets):
            raise UserError(f"{path}: target_modules is {targets!r}, expected a list of names or 'all-linear'")
        lora = cls(
            found.get("r", cls.rank), found.get("lora_alpha", 8), found.get("lora_dropout", 0.0),
            found.get("use_rslora", False), tuple(targets),
        )  # fmt: skip
        _check_values(path, lora)
        return lora


READ = {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"}
WITHOUT_EFFECT = {
    "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version", "auto_mapping", "megatron_core",
    "qalora_group_size", "layers_pattern",
}  # fmt: skip
SUPPORTED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # any other changes the weights of the base
}
"""Keys of adapter_config.json with the values that change nothing here; a key in none of the three tables must be empty."""


def _check_supported(path: Path, key: str, value: object) -> None:
    if key in SUPPORTED:
        if value not in SUPPORTED[key]:
            raise UserError(f"{path}: {key} is {value!r}; supported: {', '.join(map(repr, SUPPORTED[key]))}")
    elif key not in READ | WITHOUT_EFFECT and not (value is None or value is False or value in ("", [], {})):
        raise UserError(f"{path}: {key} is {value!r}, which is not supported here")


def _check_values(path: Path, lora: Lora) -> None:
    if type(lora.rank) is not int or lora.rank < 1:
        raise UserError(f"{path}: r is {lora.rank!r}, expected a positive int")
    if type(lora.alpha) not in (int, float) or not 0 < lora.alpha < math.inf:
        raise UserError(f"{path}: lora_alpha is {lora.alpha!r}, expected a positive number")
    if type(lora.dropout) not in (int, float) or not 0 <= lora.dropout < 1:
        raise UserError(f"{path}: lora_dropout is {lora.dropout!r}, expected a number from 0 to below 1")
    if type(lora.rslora) is not bool:
        raise UserError(f"{path}: use_rslora is {lora.rslora!r}, expected a bool")


# -- adapters in a model -------------------------------------------------------------------------------------------------


def add_adapter(model: Qwen3, lora: Lora) -> None:
    """Freeze the model and give its target layers an adapter that adds nothing yet. Raises UserError for a bad target."""
    chosen = _targets(model, lora.targets)
    model.requires_grad_(False)
    for name in chosen:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, LoraLinear(model.get_submodule(name), lora))


def _targets(model: Qwen3, targets: tuple[str, ...]) -> list[str]:
    """The full names of the layers that the targets name, or end with, as PEFT matches them."""
    linear = [name for name, module in model.model.named_modules(prefix="model") if isinstance(module, nn.Linear)]
    for target in targets:
        if not any(_named(name, target) for name in linear):
            near = get_close_matches(target, ALL_LINEAR, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"target {target!r} names no layer that can have an adapter ({', '.join(ALL_LINEAR)}){hint}")
    return [name for name in linear if any(_named(name, target) for target in targets)]


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def adapted(model: Qwen3) -> Iterator[tuple[str, LoraLinear]]:
    """The layers that have an adapter, by their names."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear))


def adapter_weights(model: Qwen3) -> dict[str, nn.Parameter]:
    """The adapter's parameters under the names of PEFT's files."""
    layers = dict(adapted(model))
    return {
        f"{PREFIX}{name}.{part}.weight": getattr(layer, part).weight
        for name, layer in layers.items()
        for part in ("lora_A", "lora_B")
    }


def merge(model: Qwen3) -> None:
    """Put the adapter into the weights; the model is a plain one again. There is no way back: a bf16 base is rounded."""
    for name, layer in list(adapted(model)):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.merged())


# -- PEFT's files --------------------------------------------------------------------------------------------------------


def save_adapter(
    model: Qwen3, lora: Lora, base: str, folder: Path, save: Save = save_now, revision: str | None = None
) -> list[Saving]:
    """Write adapter_config.json and adapter_model.safetensors into a folder. Raises as `save`."""
    (folder / CONFIG).write_text(json.dumps(lora.to_json(base, revision), indent=2) + "\n")
    return save({name: weight.detach() for name, weight in adapter_weights(model).items()}, folder / WEIGHTS)


@torch.no_grad()
def load_adapter(model: Qwen3, folder: Path) -> Lora:
    """Give a model the adapter of a folder, ours or PEFT's. Raises UserError (naming the key) or FileNotFoundError."""
    lora, found = Lora.from_json(folder / CONFIG), header(folder / WEIGHTS)
    try:
        add_adapter(model, lora)
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from None
    weights = adapter_weights(model)
    _check_weights(folder / WEIGHTS, found, weights)
    for name, tensor in read(found, list(found)).items():
        weights[name].copy_(tensor)
    return lora


def _check_weights(path: Path, found: dict[str, Entry], weights: dict[str, nn.Parameter]) -> None:
    unknown, missing = sorted(set(found) - set(weights)), sorted(set(weights) - set(found))
    if unknown:
        raise UserError(f"{path}: {unknown[0]} belongs to no target of {CONFIG} ({len(unknown)} tensors in all)")
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing ({len(missing)} tensors in all)")
    for name, entry in found.items():
        if entry.shape != tuple(weights[name].shape):
            expected = list(weights[name].shape)
            raise UserError(f"{path}: {name} has shape {list(entry.shape)}; the rank and the base ask for {expected}")
        if entry.dtype not in DTYPES:
            raise UserError(f"{path}: {name} has dtype {entry.dtype}, expected {', '.join(DTYPES)}")
