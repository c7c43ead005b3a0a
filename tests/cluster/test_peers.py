"""Real processes, with rogues among them: the service and its other sessions continue."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from gt.wire import codec, messages
from gt.wire import instructions as wire
from gt.wire.transport import Transport, connect
from tests.cluster.conftest import PATIENCE_S, Service, serving
from tests.conftest import Run

INFO = messages.WorkerInfo("a rogue", 1, "host", "cpu", "2.13", 1 << 30)
SCALAR = wire.Geometry((), (), 0, "float32")


def say(transport: Transport, *said: messages.FromClient | messages.FromWorker) -> None:
    for message in said:
        transport.send([codec.encode(message)])


def hear(transport: Transport, decode: Callable[[bytes], object], kind: type) -> object:
    """The next message of one kind."""
    while True:
        frames = transport.receive(PATIENCE_S)
        assert frames is not None
        if isinstance(message := decode(frames[0]), kind):  # type: ignore[arg-type]
            return message


def hello(service: Service) -> Transport:
    client = connect(service.address, "client", PATIENCE_S)
    say(client, messages.Hello(messages.PROTOCOL, 1, "host"))
    hear(client, codec.to_client, messages.Welcome)
    return client


@pytest.mark.parametrize("either", ["ipc", pytest.param("tcp", marks=pytest.mark.long)], indirect=True)
def test_a_worker_that_registers_twice_and_answers_for_others_ends_nobody(either: Service, run_python: Run) -> None:
    with closing(connect(either.address, "worker", PATIENCE_S)) as rogue:
        say(rogue, messages.Register(messages.PROTOCOL, msgspec.structs.replace(INFO, name="\x1b[2J")))
        assert "printable" in hear(rogue, codec.to_worker, messages.Rejected).reason  # type: ignore[attr-defined]
        say(rogue, messages.Register(messages.PROTOCOL, INFO))
        hear(rogue, codec.to_worker, messages.Registered)
        with closing(hello(either)) as first, closing(hello(either)) as second:  # one on each worker
            for client in (first, second):
                say(client, *(messages.Run(seq, codec.pack([1]), 0) for seq in range(1, 9)))
            hear(rogue, codec.to_worker, messages.Execute)
            say(rogue, messages.Register(messages.PROTOCOL, INFO))
            say(rogue, *(messages.Done(session, 1, [messages.Answer(1, 9)]) for session in range(4)), messages.Ping())
            hear(rogue, codec.to_worker, messages.Pong)
            say(first, messages.Goodbye(), messages.Goodbye(), messages.Ping())
            hear(first, codec.to_client, messages.Pong)
    done = run_python("import gt\nprint(gt.ones(3).sum().item())", GT_ADDRESS=either.address)
    assert (done.stdout, done.stderr) == ("3.0\n", "")


def test_a_pipe_and_a_device_in_the_data_folder_hold_up_no_worker(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with serving("--data", str(tmp_path), "/dev") as service, closing(hello(service)) as client:
        loads = [wire.LoadFile(i, str(tmp_path / name), "w", SCALAR, 0) for i, name in enumerate(("pipe", "device"))]
        fetches = [wire.Fetch(i, i, SCALAR) for i in range(2)]
        saves = [wire.SaveFile(2 + i, path, {}, {}) for i, path in enumerate((str(tmp_path / "pipe"), "/dev/null"))]
        say(client, messages.Run(1, codec.pack([*loads, *fetches, *saves])))
        done = hear(client, codec.to_client, messages.Done)
        said = [answer.failure.message for answer in done.answers]  # type: ignore[attr-defined]
    assert ["a pipe" in said[0], "a device" in said[1], "a pipe" in said[2], "a device" in said[3]] == [True] * 4, said
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_log_that_would_wait_for_a_reader_is_refused_and_the_program_hears_of_it(tmp_path: Path, run_python: Run) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run_python("import gt\ngt.ones(3).sum().item()", GT_INSTRUCTION_LOG=str(tmp_path / "pipe"), timeout_s=60)
    assert f"GT_INSTRUCTION_LOG={tmp_path}/pipe: a pipe, not a regular file" in done.stderr
    shown = subprocess.run(
        [sys.executable, "-m", "gt", "log", str(tmp_path / "pipe")], capture_output=True, text=True, timeout=60
    )
    assert (shown.returncode, shown.stderr) == (1, f"gt: {tmp_path}/pipe: a pipe, not a regular file\n")


def test_what_is_no_address_is_one_line_wherever_it_is_given(run_python: Run) -> None:
    address = "tcp://127.0.0.1:7000/x"
    for command in (["serve", "--address", address], ["worker", "--connect", address]):
        done = subprocess.run([sys.executable, "-m", "gt", *command], capture_output=True, text=True, timeout=60)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert done.stderr.startswith("gt: ")
        assert address in done.stderr
    set_wrong = run_python("import gt", GT_ADDRESS=address)
    assert set_wrong.stderr.splitlines()[-1].startswith("gt.errors.ConfigError: GT_ADDRESS: ")
