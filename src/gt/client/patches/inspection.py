"""Which inspection a program is under, by the setting `inspect`."""

from __future__ import annotations

from gt.client.patches.checked import Checked
from gt.client.patches.explained import Explained
from gt.client.patches.inspected import Steps


def install(setting: str) -> None:
    """Install the hooks of `explain:STEPS` or `check:FOLDER`; none for an empty setting. Before those of the marks."""
    what, _, how = setting.partition(":")
    if what == "explain":
        Steps(Explained(int(how))).install()
    elif what == "check":
        Steps(Checked(how)).install()
