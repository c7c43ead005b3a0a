"""Signals: where the handlers of a program run.

Python calls a handler between any two bytecodes of the main thread, and wherever C asks for it; it may raise. In GT's code
that would leave the session out of step with its dispatcher, in a destructor nobody could catch it, and in a device's guard
C++ would end the process. There handlers are put off until the program goes on. See docs/decisions/007-interrupts.md.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps, under whatever name a program imported it
import _thread
import contextlib
import ctypes
import functools
import itertools
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from gt.waiting import interruptible_code

LIBRARIES = frozenset({*sys.stdlib_module_names, "torch", "functorch", "numpy", "zmq", "msgspec", "yaml", "sympy", "mpmath"})
"""Packages whose functions GT calls: where such a function stands, it matters who called it."""
AROUND = (
    "gt.client.patches.inspected",
    "gt.client.patches.marks",
    "gt.client.patches.modules",
    "gt.client.patches.patch",
    "gt.client.patches.saved",
    "gt.client.patches.scripts",
    "gt.facade.built_remotely",
    "gt.facade.cpu_alias",
    "gt.facade.libraries",
    "gt.facade.lightning",
    "gt.facade.loaders",
    "gt.facade.mirror",
    "gt.facade.overrides",
    "gt.facade.weight_files",
    "gt.files",
    "gt.run.importlib_bootstrap",
)
"""Modules around functions of libraries that may take long: they are interrupted as those functions are."""
AT_ONCE, LATER_S = 32, 0.001
"""A handler is called again where Python looks for signals next, but each time that many times have been too early only
that many seconds later. An operation of GT's looks some ten times."""
CALLED_BACK = ("weakref",)
"""Modules of callbacks that C calls, which reports what they raise and goes on."""
DEPTH = 16
"""The number of C functions that are looked at, innermost first: those of a handler, and of who asked for it."""


class Handler:
    """What Python calls in the place of a program's handler."""

    __slots__ = ("_put_off", "handler")
    told = False
    """Whether there is a file of `set_wakeup_fd`, which is told of a signal each time that it is sent."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.handler = handler
        self._put_off = 0
        """How often in succession."""

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        """Called by Python, on the main thread."""
        if not (_is_inside(frame) or _is_asked_by_torch()):
            self._put_off = 0
            return self.handler(number, frame)
        self._put_off += 1
        if Handler.told or self._put_off % AT_ONCE == 0:  # inside something long Python looks for signals thousands of times
            with contextlib.suppress(RuntimeError):  # no more threads, or none any more
                return _thread.start_new_thread(_send_later, (number,))
        return _again(number)()


interruptible_code.add(Handler.__call__.__code__)  # the program's own handler is


def _is_inside(frame: FrameType | None) -> bool:
    """Whether a function of GT's that must not be cut short has called the innermost one, directly or through libraries.

    The program's own functions may be, those excepted by which modules are imported: whoever imports calls them.
    """
    is_programs = False
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        package = module.partition(".")[0]
        if module in CALLED_BACK and not is_programs:
            return True
        if package == "gt" and module not in AROUND:
            return not is_programs and frame.f_code not in interruptible_code
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            is_programs = False
        elif package not in LIBRARIES and package != "gt" and not package.startswith("namedtuple_"):
            is_programs = True
        frame = frame.f_back
    return False


@functools.cache
def _again(number: int) -> type:
    """Python calls a handler whose result is an object of this class again where it looks for signals next.

    When the object dies, C sends the signal. Python drops a handler's result in C; in Python's own code it would look for
    signals right after sending one.
    """
    send = functools.partial(_thread.interrupt_main, number)  # type: ignore[arg-type]
    return type("Again", (), {"__slots__": (), "__del__": staticmethod(send)})


def _send_later(number: int) -> None:
    """On another thread: send a signal a moment later, which also wakes the main thread if it waits by then."""
    time.sleep(LATER_S)
    if type(_get(number)) is Handler:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


# -- the native stack ------------------------------------------------------------------------------------------------------


class _Symbol(ctypes.Structure):
    """`Dl_info` of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("file_address", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


_libc = ctypes.CDLL(None)
_libc.dladdr.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Symbol))


def _is_asked_by_torch() -> bool:
    """Whether PyTorch's C++ is looking up a method of a Python object, as it does for a device's guard: by `PyObject_Str`,
    which looks for signals."""
    addresses = (ctypes.c_void_p * DEPTH)()
    evaluates = False
    for callee, caller in itertools.pairwise(addresses[: _libc.backtrace(addresses, DEPTH)]):
        name = _symbol(callee).name
        if name == b"_PyEval_EvalFrameDefault":
            if evaluates:  # the interpreter itself has called the handler
                return False
            evaluates = True
        if name == b"PyObject_Str":
            return b"libtorch_python" in (_symbol(caller).file or b"")
    return False


def _symbol(address: int | None) -> _Symbol:
    symbol = _Symbol()
    _libc.dladdr(address, ctypes.byref(symbol))
    return symbol


# -- Python's table of handlers --------------------------------------------------------------------------------------------

_set, _get, _set_told = _signal.signal, _signal.getsignal, _signal.set_wakeup_fd


@functools.wraps(_set)
def _setting(number: int, handler: Any, /) -> Any:
    puts_off = callable(handler) and not _does_nothing(handler)
    return _own(_set(number, Handler(handler) if puts_off else handler))


@functools.wraps(_get)
def _getting(number: int, /) -> Any:
    return _own(_get(number))


@functools.wraps(_set_told)
def _setting_told(fd: int, /, **options: bool) -> Any:
    before = _set_told(fd, **options)
    Handler.told = fd != -1
    return before


def _does_nothing(handler: Any) -> bool:
    """Whether a handler may be called anywhere, as that of an event loop, which `set_wakeup_fd` tells of its signals."""
    code = getattr(handler, "__code__", None)
    return code is not None and len(code.co_code) <= len((lambda number, frame: None).__code__.co_code)


def _own(found: Any) -> Any:
    return found.handler if type(found) is Handler else found


def install() -> None:
    """From now on handlers are put off where they must be, those that there are already included."""
    if threading.current_thread() is threading.main_thread():
        for number in signal.valid_signals():
            if callable(_getting(number)):
                _replace(number)
        _setting_told(_set_told(-1))
    _signal.signal, _signal.getsignal = _setting, _getting
    _signal.set_wakeup_fd = signal.set_wakeup_fd = _setting_told


def _replace(number: int) -> None:
    """Python would undo what others told the system about the signal (`siginterrupt`, `faulthandler.register`)."""
    told = ctypes.create_string_buffer(512)  # larger than any `struct sigaction`
    _libc.sigaction(number, None, told)
    _setting(number, _getting(number))
    _libc.sigaction(number, told, None)
