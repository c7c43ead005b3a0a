"""Lightning's `Accelerator` named `remote`, the one that `accelerator="auto"` means where Lightning would choose the CPU.

Each function changes one module of Lightning after its import, in both of the packages by which it is known.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from gt.facade.cpu_alias import REMOTE, chosen_for_training, names_the_cpu


def _auto(choose: Callable[[], str]) -> Callable[[], str]:
    """What `accelerator="auto"` means."""

    @functools.wraps(choose)
    def _choose_auto_accelerator() -> str:
        chosen = choose()
        return chosen_for_training(torch.device(chosen)).type if chosen == "cpu" else chosen

    return _choose_auto_accelerator


def _registered(accelerators: ModuleType) -> None:
    """Register the accelerator: of the two registries, Fabric's is a constant."""
    registry = getattr(accelerators, "AcceleratorRegistry", None) or accelerators.ACCELERATOR_REGISTRY
    registry.register("remote", _accelerator(accelerators.Accelerator), description="RemoteAccelerator")


def _accelerator(base: Any) -> type:
    class RemoteAccelerator(base):  # type: ignore[misc]
        """One device, which stands for all workers."""

        def setup_device(self, device: torch.device) -> None:
            """Check the kind of the device. Raises ValueError for any other."""
            if device.type != "remote":
                raise ValueError(f"Device should be remote, got {device} instead.")

        def get_device_stats(self, device: Any) -> dict[str, Any]:
            """The worker's memory, as of `torch.remote.memory_stats`."""
            return torch.remote.memory_stats(device)  # type: ignore[no-any-return]

        def teardown(self) -> None:
            """Nothing was set up."""

        @staticmethod
        def parse_devices(devices: Any) -> int:
            """How many devices; there is one. Raises ValueError for more."""
            if devices not in (1, "1", "auto", -1, "-1", [0]):
                raise ValueError(f"devices={devices!r}: there is one remote device; GT_CONFIG places its tensors on workers")
            return 1

        @staticmethod
        def get_parallel_devices(devices: Any) -> list[torch.device]:
            """The device."""
            return [REMOTE]

        @staticmethod
        def auto_device_count() -> int:
            """There is one."""
            return 1

        @staticmethod
        def is_available() -> bool:
            """Always: GT has been imported."""
            return True

        @staticmethod
        def name() -> str:
            """Its name in `Trainer(accelerator=...)`."""
            return "remote"

    return RemoteAccelerator


def _choosing(connector: str) -> Callable[[ModuleType], None]:
    """Lightning's connector takes the CPU where it finds no device that it knows, and where it is told another."""

    def adapt(module: ModuleType) -> None:
        cls = getattr(module, connector)
        choose = cls._choose_strategy

        @functools.wraps(choose)
        def _choose_strategy(self: Any) -> Any:
            chosen = choose(self)
            if self._parallel_devices == [REMOTE] and isinstance(chosen, module.SingleDeviceStrategy):
                chosen._root_device = REMOTE
            return chosen

        cls._choose_strategy, cls._choose_auto_accelerator = (
            _choose_strategy,
            staticmethod(_auto(cls._choose_auto_accelerator)),
        )

    return adapt


def _model_stays(strategy: ModuleType) -> None:
    """A strategy ends by fetching the model and the optimizer's state, to free a GPU. Here they stay, as on a CPU."""
    move, end = strategy._optimizers_to_device, strategy.Strategy.teardown

    @functools.wraps(move)
    def _optimizers_to_device(optimizers: Any, device: Any) -> None:
        moved = list(optimizers)
        if not names_the_cpu(device) or not any(map(_is_remote, _parameters(moved))):
            move(moved, device)

    @functools.wraps(end)
    def teardown(self: Any) -> None:
        model = self.lightning_module
        if model is None or not any(map(_is_remote, model.parameters())):
            return end(self)
        model.__dict__["cpu"] = lambda: model
        try:
            end(self)
        finally:
            del model.__dict__["cpu"]

    strategy._optimizers_to_device, strategy.Strategy.teardown = _optimizers_to_device, teardown


def _is_remote(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "remote"


def _parameters(optimizers: list[Any]) -> Iterator[torch.Tensor]:
    return (parameter for one in optimizers for group in one.param_groups for parameter in group["params"])


def _table() -> Iterator[tuple[str, Callable[[ModuleType], None]]]:
    for trainer, fabric in (("lightning.pytorch", "lightning.fabric"), ("pytorch_lightning", "lightning_fabric")):
        yield f"{fabric}.accelerators", _registered
        yield f"{fabric}.connector", _choosing("_Connector")
        yield f"{trainer}.accelerators", _registered
        yield f"{trainer}.trainer.connectors.accelerator_connector", _choosing("_AcceleratorConnector")
        yield f"{trainer}.strategies.strategy", _model_stays


ADAPTED = dict(_table())
