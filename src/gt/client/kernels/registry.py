"""Tables of kernels that are written one by one."""

from __future__ import annotations

from collections.abc import Callable

from gt.client.kernels.general import Kernel
from gt.client.stream.isolation import untraced


class Kernels(dict[str, Kernel]):
    """Overload name without `aten::` -> kernel on the device's key."""

    def of(self, *names: str) -> Callable[[Kernel], Kernel]:
        """Adds a kernel for these overloads. It reads plain sizes even while PyTorch traces."""

        def add(function: Kernel) -> Kernel:
            self.update(dict.fromkeys(names, untraced(function)))
            return function

        return add
