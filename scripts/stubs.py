"""Generates `src/gt-stubs`, which give the names of `import gt as torch` torch's own types in a type checker.

    .venv/bin/python scripts/stubs.py

One stub per module of torch in `MODULES`: the mirrored modules that programs import from. Each re-exports torch's names
and adds nothing, so the stubs change only when torch gets new names. GT's own modules (`gt.files`, `gt.client`, ...) have no
stub here: the package is partial (PEP 561), and a type checker reads their sources.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import shutil
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent.parent / "src" / "gt-stubs"
MODULES = {
    "": """
        accelerator amp autograd backends compiler cpu cuda distributed distributions export fft func functional
        futures fx hub jit library linalg masked monitor mps multiprocessing nested nn optim overrides package
        profiler quasirandom random serialization signal sparse special storage testing types utils version
    """,
    "amp": "autocast_mode grad_scaler",
    "autograd": "forward_ad function functional grad_mode graph profiler",
    "backends": "cuda cudnn mkldnn mps",
    "cpu": "amp",
    "cuda": "amp",
    "distributions": "constraints distribution kl transforms",
    "nn": "attention functional grad init modules parallel parameter utils",
    "nn.modules": """
        activation batchnorm container conv dropout linear loss module normalization pooling rnn sparse transformer
    """,
    "nn.utils": "clip_grad parametrizations parametrize prune rnn stateless",
    "optim": "adam adamw lr_scheduler optimizer sgd swa_utils",
    "signal": "windows",
    "utils": "benchmark checkpoint data dlpack flop_counter hooks",
    "utils.data": "dataloader dataset distributed sampler",
}
"""Package of torch -> its modules that have a stub. Other modules resolve to torch's own."""
NAMES = ["", *(f"{package}.{name}".lstrip(".") for package, names in MODULES.items() for name in names.split())]
"""The same, each by its name below torch; the top-level package first."""
OWN = '''
import builtins
from collections.abc import Callable

from gt import debug as debug
from gt import files as files
from gt.client.stream.scopes import scope as scope

__version__: builtins.str

def connect(address: builtins.str, timeout_s: builtins.float | None = None) -> None: ...
def disconnect() -> None: ...
def reopen(timeout_s: builtins.float = 300.0, report: Callable[[builtins.str], None] | None = None) -> None: ...
'''  # fmt: skip
"""GT's own names. (`float` of torch is a dtype.)"""
HEAD = "# Written by scripts/stubs.py.\n"


def starred(module: ModuleType) -> set[str] | None:
    """The names that a type checker imports by `import *`: those of a literal `__all__`; None if there is no `__all__`."""
    found: set[str] | None = None
    for node in ast.parse(inspect.getsource(module)).body:
        for one in ast.walk(node):
            if isinstance(one, ast.Name) and one.id == "__all__":
                found = set() if found is None else found
                found |= {c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
    return found


def names(module: ModuleType) -> list[str]:
    """The public names that `import *` misses, as in `torch` itself, which builds most of its `__all__` at run time."""
    known = starred(module)
    if known is None:
        return []
    public = set(getattr(module, "__all__", ()))
    if module.__name__ == "torch":
        public = {name for name in dir(module) if not name.startswith("_")} & annotated(module)
    found = {n: getattr(module, n) for n in public - known - set(NAMES) if hasattr(module, n)}
    return sorted(n for n, value in found.items() if not isinstance(value, ModuleType) and not _is_foreign(value))


def _is_foreign(value: object) -> bool:
    home = getattr(value, "__module__", None) or type(value).__module__
    return home.partition(".")[0] in ("typing", "collections", "__future__")


def annotated(module: ModuleType) -> set[str]:
    """The names at the top of torch's annotated files: some names from C++ have no annotations."""
    folder = Path(str(module.__file__)).parent
    files = ("__init__.py", "functional.py", "_C/__init__.pyi", "_C/_VariableFunctions.pyi")
    found: set[str] = set()
    for file in files:
        top = ast.parse((folder / file).read_text()).body
        inside = [node for branch in top if isinstance(branch, ast.If) for node in branch.body]
        for node in [*top, *inside]:
            match node:
                case ast.FunctionDef(name) | ast.ClassDef(name) | ast.AnnAssign(ast.Name(name)):
                    found.add(name)
                case ast.ImportFrom() if file.endswith(".py"):  # a stub's imports are its own
                    found |= {alias.asname or alias.name for alias in node.names}
                case ast.Assign():
                    found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def stub(name: str) -> str:
    """The stub of `gt.NAME`, or of `gt` for the empty name."""
    real, mirror = f"torch.{name}".rstrip("."), f"gt.{name}".rstrip(".")
    lines = [f"from {real} import *"]
    lines += [f"from {real} import {n} as {n}" for n in names(importlib.import_module(real))]
    lines += [f"from {mirror} import {n} as {n}  # type: ignore[no-redef]" for n in MODULES.get(name, "").split()]
    return HEAD + "\n".join(lines) + "\n" + ("" if name else OWN)


def path_of(name: str) -> Path:
    """The stub's path inside the folder."""
    path = Path(*name.split("."))
    return path / "__init__.pyi" if name in MODULES else path.with_suffix(".pyi")


def stubs() -> dict[Path, str]:
    """Path in the folder -> content, for every file."""
    return {Path("py.typed"): "partial\n"} | {path_of(name): stub(name) for name in NAMES}


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    for path, text in stubs().items():
        (FOLDER / path).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / path).write_text(text)


if __name__ == "__main__":
    main()
