"""TorchScript graphs: the devices that they name, and their factories, whose only default is the CPU."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.jit import ScriptFunction, ScriptModule

REMOTE = "remote:0"


def make_remotely(scripted: Any) -> None:
    """Make the factories of a scripted function or module, and its constants that name the CPU, use the remote device."""
    for graph in list(_graphs(scripted)):
        _rename(_named(graph, "cpu"), REMOTE)
        for node in _nodes(graph):
            position = _device_of_factory(node.schema()) if node.kind().startswith("aten::") else None
            if position is not None and node.inputsAt(position).type().kind() == "NoneType":
                graph.setInsertPoint(node)
                node.replaceInput(position, graph.insertConstant(torch.device(REMOTE)))


@contextlib.contextmanager
def named_for_others(scripted: Any) -> Iterator[None]:
    """Name the remote device "cpu" inside this context, for readers that do not know it."""
    constants = [constant for graph in _graphs(scripted) for constant in _named(graph, REMOTE)]
    _rename(constants, "cpu")
    try:
        yield
    finally:
        _rename(constants, REMOTE)


def _named(graph: Any, device: str) -> list[Any]:
    """The constants that name this device."""
    devices = [c for c in graph.findAllNodes("prim::Constant") if c.output().type().kind() == "DeviceObjType"]
    return [c for c in devices if c.s("value") == device]


def _rename(constants: list[Any], device: str) -> None:
    for constant in constants:
        constant.s_("value", device)


def inline(scripted: ScriptModule) -> None:
    """Inline the functions that a module brings from a file, which cannot be reached otherwise, into the graphs that call
    them."""
    for graph in _methods(scripted):
        if graph.findNode("prim::CallFunction") is not None:
            torch._C._jit_pass_inline(graph)


def _graphs(scripted: Any) -> Iterator[Any]:
    """The graphs of a function, or of all methods of a module, and of the functions that they call."""
    waiting: list[Any] = [scripted.graph] if isinstance(scripted, ScriptFunction) else list(_methods(scripted))
    met: set[str] = set()
    while waiting:
        graph = waiting.pop()
        yield graph
        called = {str(call.inputsAt(0).type()) for call in graph.findAllNodes("prim::CallFunction")} - met
        found = map(torch.jit._state._python_cu.find_function, called)
        waiting += [function.graph for function in found if function is not None]
        met |= called


def _methods(module: ScriptModule) -> Iterator[Any]:
    for part in module.modules():
        if isinstance(part, ScriptModule):
            yield from (part._c._get_method(name).graph for name in part._c._method_names())


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


@functools.cache
def _device_of_factory(schema: str) -> int | None:
    """The position of the device argument of an operator without tensor arguments; None if it has none."""
    arguments = torch._C.parse_schema(schema).arguments
    if any("Tensor" in str(a.type) for a in arguments):
        return None
    return next((i for i, a in enumerate(arguments) if a.name == "device"), None)
