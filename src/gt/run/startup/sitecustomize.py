"""Python imports this module when it starts, in every process of a program that `gt run` runs.

It installs the import hook, and imports the `sitecustomize` that it hides, if the user has one.
"""

from __future__ import annotations

import importlib.util
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
HOOK = "gt.run.importlib_bootstrap"


def _install() -> None:
    """Install the hook without importing GT, whose import is that of torch: many processes never need it."""
    spec = importlib.util.spec_from_file_location(HOOK, os.path.join(os.path.dirname(HERE), "importlib_bootstrap.py"))
    assert spec is not None
    assert spec.loader is not None
    hook = sys.modules[HOOK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    hook.install()


def _import_the_hidden_one(own: object) -> None:
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != HERE]
    del sys.modules["sitecustomize"]
    try:
        # late import: another module of this name
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", own)  # type: ignore[arg-type]


if __name__ == "sitecustomize":
    if os.environ.get("GT_RUN") == sys.prefix and "GT_ROLE" not in os.environ:
        _install()
    _import_the_hidden_one(sys.modules[__name__])
