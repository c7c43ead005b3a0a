"""What the dispatcher's core takes in and what it decides: events and actions, as typed values."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from gt.wire.messages import FromClient, FromWorker, ToClient, ToWorker
from gt.wire.shared import Frame

Peer = bytes
"""The name a router gives to a connection."""
Frames = list[Frame]

# -- events --------------------------------------------------------------------------------------------------------------


class FromClientEvent(msgspec.Struct, frozen=True):
    """A message arrived at the clients' address."""

    peer: Peer
    message: FromClient
    frames: Frames


class FromWorkerEvent(msgspec.Struct, frozen=True):
    """A message arrived at the workers' address."""

    peer: Peer
    message: FromWorker
    frames: Frames


class ClientGone(msgspec.Struct, frozen=True):
    """A client's connection is closed."""

    peer: Peer


class WorkerGone(msgspec.Struct, frozen=True):
    """A worker's connection is closed, or the worker has been stopped for too long."""

    peer: Peer


class Expect(msgspec.Struct, frozen=True):
    """This many workers are known to be starting or running; clients are kept waiting until one of them is ready."""

    workers: int


class Malformed(msgspec.Struct, frozen=True):
    """A peer sent a frame that is not a message."""

    peer: Peer


class Failed(msgspec.Struct, frozen=True):
    """`step` raised on an event, which is a bug: the peer that sent it has to go, and nobody else."""

    cause: FromClientEvent | FromWorkerEvent | ClientGone | WorkerGone
    reason: str


Event: TypeAlias = FromClientEvent | FromWorkerEvent | ClientGone | WorkerGone | Expect | Malformed | Failed

# -- actions -------------------------------------------------------------------------------------------------------------


class TellClient(msgspec.Struct, frozen=True):
    """Send a message to a client."""

    peer: Peer
    message: ToClient
    frames: Frames = []


class TellWorker(msgspec.Struct, frozen=True):
    """Send a message to a worker; the instruction log records an `Execute`.

    `worker` is the name the worker registered under, empty for a peer that is not registered.
    """

    peer: Peer
    worker: str
    message: ToWorker
    frames: Frames = []


class SessionEnded(msgspec.Struct, frozen=True):
    """Nothing more happens in this session: whatever is kept for it, such as by the instruction log, can be dropped."""

    session: int


Action: TypeAlias = TellClient | TellWorker | SessionEnded
