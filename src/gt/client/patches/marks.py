"""What sharding has to know of a program and cannot see in its instructions: names of parameters, arguments of the root
module, results of named modules, and whose gradient a tensor is.

Everything comes from the module tree, by patches that are made only where a configuration is in force
(`configuration.install`).
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from gt.client.session import recording
from gt.client.session.configured import configured
from gt.client.stream import scopes
from gt.client.stream.operands import operand
from gt.errors import ConfigError
from gt.placement.digit import View
from gt.placement.layout import InputRule, ParamRule, ScopeRule
from gt.placement.pattern import compiled
from gt.placement.pins import pin
from gt.placement.written import meant
from gt.wire import instructions as wire

Module = torch.nn.Module
Tensor = torch.Tensor


class Depth(threading.local):
    """How many modules are being called, one inside the other, on this thread. `paused`: see `Marks.paused`."""

    value = 0
    paused = False


class Moved(threading.local):
    """While this thread moves a module with all that it holds (`Module._apply`): the paths of its parts; else None."""

    paths: dict[Module, str] | None = None


class Marks:
    """The names that were given, and what has been recorded of them."""

    def __init__(self) -> None:
        self._depth = Depth()
        self._moved = Moved()
        self._watched = WeakIdKeyDictionary()
        """The parameters whose gradients are recorded."""
        self.forget()

    def forget(self) -> None:
        """A session has ended: what it was told is to be told to the next one anew."""
        self._roots: weakref.WeakSet[Module] = weakref.WeakSet()
        self._named: dict[int, str] = {}
        """By storage id."""
        self._names: set[str] = set()
        """The names of all parameters and buffers, also of one that has two."""
        self._owners: dict[str, weakref.ref[Module]] = {}
        self._paths: weakref.WeakKeyDictionary[Module, str] = weakref.WeakKeyDictionary()
        self._inputs: set[str] = set()
        """The names of all arguments that a root module was given."""
        self._have_matched = False
        """Whether a step has shown that every pattern matches something."""
        self._gradients: dict[int, int] = {}
        """The last gradient that was recorded, by parameter; storage ids."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which this thread works as a worker in this process: nothing is marked."""
        before, self._depth.paused = self._depth.paused, True
        try:
            yield
        finally:
            self._depth.paused = before

    # -- the patches -------------------------------------------------------------------------------------------------------

    def calling(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The patch of what every call of a module goes through."""

        @functools.wraps(call)
        def marked(module: Module, /, *args: Any, **kwargs: Any) -> Any:
            self._depth.value += 1
            are_named = True
            try:
                if self._depth.value == 1 and configured.sharding is not None:
                    are_named = self._enter(module, args, kwargs)
                self._enter_scope(module, (args, kwargs))
                result = call(module, *args, **kwargs)
            finally:
                self._depth.value -= 1
            if not are_named:
                self._name(module)
            self._leave_scope(module, result)
            return result

        return marked

    def registering(self, register: Callable[..., None]) -> Callable[..., None]:
        """The patch of what gives a module a parameter, which gets a name of its own at once."""

        @functools.wraps(register)
        def registered(module: Module, name: str, param: torch.nn.Parameter | None) -> None:
            register(module, name, param)
            self._provisional(name, param)

        return registered

    def moving(self, apply: Callable[..., Module]) -> Callable[..., Module]:
        """The patch of what moves a module to the workers, parameter by parameter."""

        @functools.wraps(apply)
        def applied(module: Module, /, *args: Any, **kwargs: Any) -> Module:
            outermost, self._moved.paths = self._moved.paths is None, self._moved.paths or _paths(module)
            try:
                result = apply(module, *args, **kwargs)
                path = self._moved.paths.get(module, "")
                for name, param in module._parameters.items():
                    self._provisional(f"{path}.{name}" if path else name, param)
                return result
            finally:
                if outermost:
                    self._moved.paths = None

        return applied

    # -- modules -----------------------------------------------------------------------------------------------------------

    def _provisional(self, name: str, param: torch.nn.Parameter | None) -> None:
        if configured.sharding is None or self._depth.paused or param is None:
            return
        if _is_remote(param):
            number, spec, _ = operand(param)
            if number not in self._named:
                recording.record(wire.Name(number, spec.to_wire(), name, provisional=True))

    def path(self, module: Module) -> str:
        """The path of a module in the root module that was called; empty for that, and for one that is not known."""
        return self._paths.get(module, "")

    def _enter(self, root: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Mark a call's arguments, and what the module holds: whether all of that is named, or some has no size yet."""
        self._name(root)
        for names, tensor in _arguments(root, args, kwargs):
            self._inputs.update(names)
            if _is_remote(tensor) and operand(tensor)[0] not in self._named:
                number, spec, _ = operand(tensor)
                recording.record(wire.Argument(number, spec.to_wire(), _matched(names)))
        return not any(map(torch.nn.parameter.is_lazy, root.parameters()))

    def _scope_of(self, module: Module) -> tuple[ScopeRule, str] | None:
        """The rule of a named module, and its path."""
        sharding, path = configured.sharding, self._paths.get(module)
        rule = sharding.scope(path) if sharding is not None and sharding.scopes and path else None
        return (rule, path) if rule is not None and path else None

    def _enter_scope(self, module: Module, given: Any) -> None:
        if (found := self._scope_of(module)) is None:
            return
        rule, path = found
        for tensor in _remote_tensors(given):
            if rule.inputs:
                _cross(tensor, path, "inputs")
            if rule.backward_out and tensor.requires_grad:
                tensor.register_hook(functools.partial(_cross, path=path, side="backward"))

    def _leave_scope(self, module: Module, result: Any) -> None:
        if (found := self._scope_of(module)) is not None and found[0].out:
            for tensor in _remote_tensors(result):
                _cross(tensor, found[1], "out")

    def _name(self, root: Module) -> None:
        """Name what a root module holds, unless it is part of one that was named."""
        if any(root is not other and root in set(other.modules()) for other in self._roots):
            return
        if root not in self._roots:
            self._roots.add(root)
            self._paths.update(_paths(root))
            for given in (root.named_parameters(remove_duplicate=False), root.named_buffers(remove_duplicate=False)):
                self._names.update(name for name, _ in given)
        for name, tensor in (*root.named_parameters(), *root.named_buffers()):
            if not _is_remote(tensor):
                continue
            number, spec, _ = operand(tensor)
            if self._named.get(number) != name:
                self._claim(root, name)
                _check(name, View(spec.size, spec.stride, spec.offset))
                self._named[number] = name
                if tensor.requires_grad and tensor.is_leaf:
                    self._watch(tensor)
                recording.record(wire.Name(number, spec.to_wire(), name))

    def _claim(self, root: Module, name: str) -> None:
        """Raises ConfigError for a name that another living root module has."""
        owner = self._owners.get(name)
        other = owner() if owner is not None else None
        if other is not None and other is not root and other not in set(root.modules()):
            raise ConfigError(
                f"{_origin(name)}: two root modules have a parameter {name!r}, {type(other).__name__} and"
                f" {type(root).__name__}, which rules cannot tell apart; legal: both in one module, or one of them gone"
            )
        self._owners[name] = weakref.ref(root)

    # -- gradients ---------------------------------------------------------------------------------------------------------

    def end_of_backward(self) -> None:
        """At the end of the first step, refuse a pattern that has matched nothing. Raises ConfigError."""
        sharding = configured.sharding
        if sharding is None or self._have_matched or self._depth.paused or not self._names:
            return
        self._have_matched = True
        _refuse_unmatched("params", sharding.params, self._names, "a parameter or buffer")
        _refuse_unmatched("inputs", sharding.inputs, self._inputs, "an argument of the root module")
        _refuse_unmatched("scopes", sharding.scopes, {*self._paths.values(), *scopes.names}, "a module or of a gt.scope")

    def _watch(self, parameter: Tensor) -> None:
        """Record whose gradient it is when a backward pass has made one."""
        if parameter not in self._watched:
            self._watched[parameter] = None
            parameter.register_post_accumulate_grad_hook(self._accumulated)

    def _accumulated(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        if configured.sharding is None or gradient is None or not _is_remote(gradient):
            return
        own, found = operand(parameter)[0], operand(gradient)[0]
        if self._gradients.get(own) != found:
            self._gradients[own] = found
            recording.record(wire.Gradients([(own, found)]))


def _refuse_unmatched(
    section: str, rules: Sequence[ParamRule | InputRule | ScopeRule], names: Iterable[str], what: str
) -> None:
    known = sorted((name for name in names if name), key=lambda name: (name[0].isdigit(), name))  # positions last
    for rule in rules:
        if not any(map(compiled(rule.pattern).matches, known)):
            problem = f"{section} {rule.pattern!r} matched nothing by the end of the first step"
            shown = f"legal: the name of {what}, such as {known[0]}" if known else f"there is no name of {what}"
            raise ConfigError(f"{rule.origin}: {problem}; {shown}{meant(rule.pattern, known)}")


def _paths(root: Module) -> dict[Module, str]:
    return {module: path for path, module in root.named_modules()}


def _cross(tensor: Tensor, path: str, side: str) -> None:
    number, spec, _ = operand(tensor)
    recording.record(wire.Crossing(number, spec.to_wire(), path, side))


def _remote_tensors(values: Any) -> Iterator[Tensor]:
    for tensor in pytree.tree_leaves(values):
        if isinstance(tensor, Tensor) and _is_remote(tensor):
            yield tensor


def _check(name: str, view: View) -> None:
    """Raises ConfigError for a parameter that cannot be placed as the configuration says."""
    sharding = configured.sharding
    rule = sharding.param(name) if sharding is not None else None
    if sharding is None or rule is None:
        return
    try:
        pin(view, rule.placements, sharding.mesh)
    except ConfigError as error:
        raise ConfigError(f"{rule.origin}: {rule.pattern!r} matches {name!r}: {error}") from None


def _matched(names: tuple[str, ...]) -> str:
    """That of an argument's names which the rule for it matches; the first, if there is none."""
    sharding = configured.sharding
    rule = sharding.input(*names) if sharding is not None else None
    return next((name for name in names if rule is not None and compiled(rule.pattern).matches(name)), names[0])


def _origin(name: str) -> str:
    """Where the configuration says something of a parameter: the line of its rule, or the file."""
    sharding = configured.sharding
    assert sharding is not None
    rule = sharding.param(name)
    return rule.origin if rule is not None else sharding.source


def _is_remote(tensor: Tensor) -> bool:
    """Whether workers have its elements: not those of what `torch.func` and tracers pass through a program."""
    if tensor.device.type != "remote" or tensor.layout is not torch.strided or torch.nn.parameter.is_lazy(tensor):
        return False
    try:
        operand(tensor)
    except NotImplementedError:
        return False
    return True


def _arguments(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """The tensors among the arguments of a call, each by its name and its position, or by the one of them that it has.

    What is inside a tuple, a list or a dict has names of several components: `batch.input_ids`, `0.input_ids`.
    """
    for names, value in _given(module, args, kwargs):
        for path, tensor in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(tensor, Tensor):
                inside = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
                yield tuple(".".join((name, *inside)) for name in names), tensor


def _given(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The arguments as `forward` takes them. Of those in its `*args` only the position is known, of `**kwargs` the name."""
    try:
        taken = inspect.signature(module.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):  # the call itself will say so
        return
    kinds = {name: parameter.kind for name, parameter in taken.signature.parameters.items()}
    for position, (name, kind) in enumerate(kinds.items()):
        if name in taken.arguments:
            value = taken.arguments[name]
            if kind is inspect.Parameter.VAR_POSITIONAL:
                yield from (((str(n),), one) for n, one in enumerate(value, position))
            elif kind is inspect.Parameter.VAR_KEYWORD:
                yield from (((own,), one) for own, one in value.items())
            else:
                yield (name, str(position)), value


marks = Marks()
