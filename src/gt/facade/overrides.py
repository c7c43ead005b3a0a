"""Overrides of torch's functions and classes in the mirror: the table `OVERRIDES` and its entries."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch

from gt.client.patches import script_graphs
from gt.client.session.shared_arrays import SOURCE_BYTES, links
from gt.facade import built_remotely, cpu_alias, stand_ins, tensor_types
from gt.facade.cpu_alias import REMOTE, default_device, making, placed, placing, placing_kind, sent
from gt.facade.loaders import DataLoader

FACTORIES = {
    "torch": [
        "arange",
        "bartlett_window",
        "blackman_window",
        "empty",
        "empty_permuted",
        "empty_strided",
        "eye",
        "full",
        "hamming_window",
        "hann_window",
        "kaiser_window",
        "linspace",
        "logspace",
        "ones",
        "rand",
        "randint",
        "randn",
        "randperm",
        "range",
        "scalar_tensor",
        "tensor",
        "tril_indices",
        "triu_indices",
        "zeros",
        "sparse_coo_tensor",
        "sparse_csr_tensor",
    ],
    "torch.fft": ["fftfreq", "rfftfreq"],
    "torch.nn.utils": ["skip_init"],
    "torch.signal.windows": list(torch.signal.windows.__all__),
}
"""Functions that make a tensor from nothing: remote unless a device is given or a device context is active."""


def remote_by_default(factory: Callable[..., Any]) -> Callable[..., Any]:
    """A factory that makes its tensor on the default device of a ported file, if it is given none."""

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("device")
        if given is not None:
            return factory(*args, **{**kwargs, "device": placed(given)})
        try:
            return factory(*args, **{**kwargs, "device": default_device()})
        except TypeError as error:
            refusal = error
        factory(*args, **kwargs)  # raises the error in words that do not mention a device
        raise refusal

    return make


def _chosen(device: Any) -> torch.device:
    """The device given by the program, or else the default."""
    return default_device() if device is None else torch.device(placed(device))


def _follow(function: Callable[..., Any]) -> Callable[..., Any]:
    """For `as_tensor` and `asarray`: a tensor stays where it is, anything else becomes remote."""

    @functools.wraps(function)
    def convert(data: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(data, torch.Tensor):
            return placing(function)(data, *args, **kwargs)
        device = _chosen(kwargs.pop("device", None))
        return _linked(function(data, *args, device="cpu", **kwargs), data, device)

    return convert


def _moved(function: Callable[..., Any]) -> Callable[..., Any]:
    """For `from_numpy` and the like: the result is moved to the remote device."""

    @functools.wraps(function)
    def convert(*args: Any, **kwargs: Any) -> torch.Tensor:
        made: torch.Tensor = function(*args, **kwargs)
        if cpu_alias.device_chosen():
            return made
        return _linked(made, made.numpy() if function is torch.frombuffer else next(iter(args), None))

    return convert


def _linked(local: torch.Tensor, source: Any, device: torch.device | None = None) -> torch.Tensor:
    """A tensor made of an array, moved to its device. If it has the array's memory, it goes on to share what is written."""
    made = sent(local, device)
    shares = isinstance(source, numpy.ndarray) and local.data_ptr() == source.ctypes.data
    if shares and source.nbytes <= SOURCE_BYTES and made.device.type == "remote":
        links.add_source(made, source)
    return made


def _within(
    context: Callable[[], contextlib.AbstractContextManager[Any]], function: Callable[..., Any]
) -> Callable[..., Any]:
    """A function of torch that makes tensors or draws inside, run under a context."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    return call


@functools.wraps(torch.from_dlpack)
def _from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> torch.Tensor:
    if not isinstance(ext_tensor, torch.Tensor):
        return _linked(torch.from_dlpack(ext_tensor, copy=copy), ext_tensor, _chosen(device))
    if ext_tensor.device.type != "remote" or ext_tensor.requires_grad or ext_tensor.is_conj():
        return torch.from_dlpack(ext_tensor, device=device, copy=copy)
    return ext_tensor.clone() if copy else ext_tensor.detach()


def _to_dlpack(tensor: torch.Tensor) -> Any:
    return torch.to_dlpack(tensor.cpu())


@functools.wraps(torch.normal)
def _normal(*args: Any, **kwargs: Any) -> torch.Tensor:
    follows = any(isinstance(a, torch.Tensor) for a in (*args, *kwargs.values()))
    return (torch.normal if follows else remote_by_default(torch.normal))(*args, **kwargs)


def _load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
    if callable(map_location) or isinstance(map_location, dict):
        return torch.load(f, _restoring(map_location), *args, **kwargs)
    return torch.load(f, REMOTE if map_location is None else placed(map_location), *args, **kwargs)


def _restoring(map_location: Any) -> Callable[[Any, str], Any]:
    """A `map_location` function for one that a ported program gave (or a dict), in which the CPU means the remote device."""
    restore = torch.serialization.default_restore_location

    def put(storage: Any, location: str) -> Any:
        kind = "cpu" if location.partition(":")[0] == "remote" else location
        if callable(map_location):
            found = map_location(storage, kind)
            found = restore(storage, kind) if found is None else found
        else:
            found = restore(storage, str(map_location.get(kind, map_location.get(location, kind))))
        return restore(found, str(REMOTE)) if cpu_alias.names_the_cpu(found.device) else found

    return put


def _compile(model: Any = None, **options: Any) -> Any:
    """`torch.compile`: workers decide what to compile, the model runs as it is."""
    return (lambda m: m) if model is None else model


def _load_script(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
    loaded = torch.jit.load(f, REMOTE if map_location is None else placed(map_location), *args, **kwargs)
    script_graphs.inline(loaded)
    script_graphs.make_remotely(loaded)
    return loaded


@functools.wraps(torch.jit.script)
def _script(obj: Any, optimize: Any = None, _frames_up: int = 0, *args: Any, **kwargs: Any) -> Any:
    scripted = torch.jit.script(obj, optimize, _frames_up + 1, *args, **kwargs)
    if isinstance(scripted, (torch.jit.ScriptFunction, torch.jit.ScriptModule)):
        script_graphs.make_remotely(scripted)
    return scripted


def _set_default_tensor_type(t: Any) -> None:
    torch.set_default_tensor_type(stand_ins.real_of(t) if isinstance(t, tensor_types.TensorType) else t)


class SobolEngine(torch.quasirandom.SobolEngine, metaclass=stand_ins.StandIn, stands_for=torch.quasirandom.SobolEngine):
    """A Sobol engine whose points are on the device."""

    draw = _moved(torch.quasirandom.SobolEngine.draw)


@contextlib.contextmanager
def _fork_rng(devices: Any = None, enabled: bool = True, *_: Any, **__: Any) -> Iterator[None]:
    with torch.random.fork_rng([0] if devices is None else devices, enabled, device_type="remote"):
        yield


DLPACK = {"from_dlpack": _from_dlpack, "to_dlpack": _to_dlpack}
QUANTIZATION = {
    # they replace modules by new ones, whose initialisation draws
    name: _within(default_device, getattr(torch.ao.quantization, name))
    for name in ("prepare", "prepare_qat", "quantize", "quantize_qat", "fuse_modules", "fuse_modules_qat")
}
LIKE = ("empty_like", "full_like", "ones_like", "rand_like", "randint_like", "randn_like", "zeros_like")
AUTOCAST_STATE = ("is_autocast_enabled", "set_autocast_enabled", "get_autocast_dtype", "set_autocast_dtype")
AMP = {name: placing_kind(getattr(torch.amp, name)) for name in ("custom_fwd", "custom_bwd", "is_autocast_available")}
_autocast = built_remotely.placing_class(torch.autocast, "device_type", lambda: {"dtype": torch.get_autocast_dtype("cpu")})
_grad_scaler = built_remotely.placing_class(torch.amp.GradScaler, "device")

OVERRIDES: dict[str, dict[str, Any]] = {
    "torch": {
        "as_tensor": _follow(torch.as_tensor),
        "asarray": _follow(torch.asarray),
        "from_numpy": _moved(torch.from_numpy),
        "frombuffer": _moved(torch.frombuffer),
        **DLPACK,
        "normal": _normal,
        "load": _load,
        "compile": _compile,
        "get_default_device": default_device,
        "set_default_tensor_type": _set_default_tensor_type,
        "Generator": tensor_types.Generator,
        "Tensor": tensor_types.Tensor,
        **tensor_types.TENSOR_TYPES,
        "autocast": _autocast,
        **{name: placing(getattr(torch, name)) for name in LIKE},
        **{name: placing_kind(getattr(torch, name)) for name in AUTOCAST_STATE},
    },
    "torch.amp": {"autocast": _autocast, "GradScaler": _grad_scaler, **AMP},
    "torch.amp.autocast_mode": {"autocast": _autocast, **AMP},
    "torch.amp.grad_scaler": {"GradScaler": _grad_scaler},
    "torch.cpu.amp": {"autocast": functools.partial(_autocast, "cpu"), "GradScaler": functools.partial(_grad_scaler, "cpu")},
    "torch.ao.quantization": QUANTIZATION,
    "torch.quantization": {name: value for name, value in QUANTIZATION.items() if hasattr(torch.quantization, name)},
    "torch.quasirandom": {"SobolEngine": SobolEngine},
    "torch.testing": {"make_tensor": placing(torch.testing.make_tensor)},
    "torch.random": {"fork_rng": _fork_rng},
    "torch.jit": {"load": _load_script, "script": _script},
    "torch.nn.init": {"sparse_": _within(default_device, torch.nn.init.sparse_)},
    "torch.serialization": {"load": _load},
    "torch.utils.dlpack": DLPACK,
    "torch.utils.data": {"DataLoader": DataLoader},
    "torch.utils.data.dataloader": {"DataLoader": DataLoader},
}
for _module, _names in FACTORIES.items():
    for _name in _names:
        OVERRIDES.setdefault(_module, {})[_name] = remote_by_default(getattr(importlib.import_module(_module), _name))


def _timer(real: Any) -> Any:
    class Timer(real, metaclass=stand_ins.StandIn, stands_for=real):  # type: ignore[misc]
        """A timer whose statements see `torch` as the file means it: `gt`."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if (
                len(args) < 5 and "language" not in kwargs
            ):  # the statements are Python, whose names are given as a keyword if at all
                kwargs["globals"] = {"torch": sys.modules["gt"], **(kwargs.get("globals") or {})}
            super().__init__(*args, **kwargs)

    return Timer


LATE = {
    ("torch.utils.benchmark", "Timer"): _timer,
    ("torch.nn.attention.flex_attention", "create_block_mask"): making,
    ("torch.nn.attention.flex_attention", "create_mask"): making,
}
"""Overrides in modules that `import torch` does not import: functions that make them from torch's own."""


def _name_as_torch() -> None:
    """Wrapped functions are equal to torch's own and found by them, under every name."""
    made: dict[Any, Any] = {}
    for module, names in OVERRIDES.items():
        source = importlib.import_module(module)
        for name, function in names.items():
            real = getattr(source, name)
            if callable(function) and not isinstance(real, type):
                place = f"gt{module.removeprefix('torch')}", name
                names[name] = made.setdefault(function, stand_ins.FunctionStandIn(function, real, *place))


def _script_as_torch() -> None:
    """In a scripted function, a wrapped name is the operator itself, whose only default is the CPU."""
    for module, names in OVERRIDES.items():
        for name, value in names.items():
            operator = torch.jit._builtins._find_builtin(getattr(importlib.import_module(module), name))
            if operator is not None and not isinstance(value, type):
                torch.jit._builtins._register_builtin(value, operator)


def install() -> None:
    """Make torch itself recognise the overrides as its own functions."""
    _name_as_torch()
    _script_as_torch()
