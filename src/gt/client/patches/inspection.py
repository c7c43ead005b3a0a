"""Which inspection a program is under, by the setting `inspect`."""

from __future__ import annotations

from gt.client.patches.checked import Checked
from gt.client.patches.explained import Explained
from gt.client.patches.inspected import Inspector, steps
from gt.client.patches.patch import apply
from gt.client.patches.table import INSPECTED


def install(setting: str) -> None:
    """Inspect as `explain:STEPS` or `check:FOLDER` says; not at all if it is empty. Before `configuration.install`."""
    inspector = _inspector(setting)
    if inspector is not None:
        steps.install(inspector)
        apply(INSPECTED)


def _inspector(setting: str) -> Inspector | None:
    what, _, how = setting.partition(":")
    if what == "explain":
        return Explained(int(how))
    return Checked(how) if what == "check" else None
