"""Patches of TorchScript, whose modules' parameters C++ holds: moving, saving and loading them, and compiling any module."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch

from gt.client.patches import script_graphs

Module = torch.nn.Module


def _is_remote(module: Module) -> bool:
    return any(t.device.type == "remote" for t in chain(module.parameters(), module.buffers()))


def moving(original: Callable[..., Module]) -> Callable[..., Module]:
    """A parameter that changes its device becomes a new tensor, since C++ would not notice that its Python object has
    changed."""

    @functools.wraps(original)
    def _apply(self: Module, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Module:
        held = next(chain(self.parameters(), self.buffers()), None)
        if held is None or fn(held.detach().reshape(-1)[:0]).device.type == held.device.type:
            return original(self, fn, recurse)
        moved: dict[torch.Tensor, torch.Tensor] = {}
        for module in self.modules():
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None:
                    moved[tensor] = moved[tensor] if tensor in moved else _moved(tensor, fn)
                    module._c.setattr(name, moved[tensor])  # type: ignore[operator,union-attr]
        return self

    return _apply


def _moved(tensor: torch.Tensor, fn: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    made = fn(tensor.detach()).requires_grad_(tensor.requires_grad)
    if tensor.is_leaf and tensor.grad is not None:
        made.grad = fn(tensor.grad)
    return made


def saving(original: Callable[..., Any]) -> Callable[..., Any]:
    """C++ writes what is in this process's memory, and a file must not name a device that others do not know."""

    @functools.wraps(original)
    def save(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        _check_constants(getattr(self, "inlined_graph", None))
        saved = copy.deepcopy(self).cpu() if isinstance(self, Module) and _is_remote(self) else self
        with script_graphs.named_for_others(self):
            return original(saved, *args, **kwargs)

    return save


def _check_constants(graph: Any) -> None:
    for node in graph.findAllNodes("prim::Constant") if graph is not None else ():
        if node.hasAttribute("value") and node.kindOf("value") == "t" and node.t("value").device.type == "remote":
            raise NotImplementedError(
                "a traced function holds a remote tensor that was none of its arguments, which cannot be saved with it:"
                " make it a buffer of a module, or trace the function with tensors on the CPU (freeze a module once"
                " it is loaded)"
            )


def loading(original: Callable[..., Any]) -> Callable[..., Any]:
    """C++ reads into this process's memory; from there the module is moved."""

    @functools.wraps(original)
    def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        remote = map_location is not None and torch.device(map_location).type == "remote"
        loaded = original(f, "cpu" if remote else map_location, *args, **kwargs)
        return loaded.to(map_location) if remote else loaded

    return load


def not_compiling(original: Callable[..., None]) -> Callable[..., None]:
    """A remote module is not compiled: workers decide what to compile."""

    @functools.wraps(original)
    def compile(self: Module, /, *args: Any, **kwargs: Any) -> None:
        if not _is_remote(self):
            original(self, *args, **kwargs)

    return compile
