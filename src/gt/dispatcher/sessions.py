"""Who is here, and who works for whom: sessions are opened, placed, lost and ended; workers register and are lost.

A session is placed on the worker with the fewest sessions, or on as many of them as its mesh needs.
"""

from __future__ import annotations

from gt.dispatcher import turns
from gt.dispatcher.events import Peer
from gt.dispatcher.state import DispatcherState, SessionState, WorkerState
from gt.errors import ConfigError
from gt.placement.layout import Sharding
from gt.wire import messages

LONGEST = {"name": 100, "host": 255, "device": 100, "torch": 100}
"""The most characters in what a worker says about itself, which errors and logs repeat to others."""
MAX_FOLDERS = 1 << 16
"""The most characters in all its folders together, which clients compare with theirs."""
NO_WORKER = "the service has no worker: add one with `gt worker --connect ADDRESS`"


def open_session(state: DispatcherState, peer: Peer, hello: messages.Hello) -> None:
    """Open a client's session, or say why not."""
    if hello.protocol != messages.PROTOCOL:
        reason = f"the client speaks protocol {hello.protocol}, this dispatcher {messages.PROTOCOL}: install one version"
        state.tell_client(peer, messages.Rejected(reason))
    elif peer in state.clients:
        state.malformed += 1
    elif unfit := _unservable(state, hello.sharding):
        state.tell_client(peer, messages.Rejected(unfit))
    else:
        place(state, state.add_session(peer, hello.sharding))


def lacking(state: DispatcherState, sharding: Sharding | None) -> str:
    """What the workers that are here lack for such a session, and how to add it; empty: nothing."""
    if too_few := _too_few(sharding, len(state.workers)):
        return too_few
    try:
        if sharding is None or _choose(state, sharding):
            return ""
    except ConfigError as error:
        return str(error)
    there = sorted((worker.info for worker in state.workers.values()), key=lambda info: info.name)
    have = ", ".join(f"{info.name} ({info.device}, torch {info.torch})" for info in there)
    return f"{sharding.need}, all on one type of device and with one version of torch; the service has {have}"


def _too_few(sharding: Sharding | None, have: int) -> str:
    """That a service which has that many workers needs more for such a session, and how to add them; empty: it does not."""
    if have >= (sharding.workers_needed if sharding else 1):
        return ""
    if sharding is None:
        return NO_WORKER
    add = "start it with `gt serve --workers N`, or add more with `gt worker --connect ADDRESS`"
    return f"{sharding.need}, the service has {have}: {add}"


def _unservable(state: DispatcherState, sharding: Sharding | None) -> str:
    """Why the service cannot serve such a session, now or soon; empty if it can."""
    all_are_here = len(state.workers) >= state.expected_workers
    return lacking(state, sharding) if all_are_here else _too_few(sharding, state.expected_workers)


def place(state: DispatcherState, session: SessionState) -> None:
    """Put a session on workers and tell its client; without enough of them it waits for more to register."""
    try:
        chosen = _choose(state, session.sharding)
    except ConfigError:
        return
    if not chosen:
        return
    state.place(session, chosen)
    infos = tuple(state.workers[p].info for p in chosen)
    if session.sharding is not None:
        meeting = f"{state.folder}/{session.number}-{session.epoch}"
        for rank, peer in enumerate(chosen):
            state.tell_worker(peer, messages.Join(session.number, rank, session.sharding.sizes, meeting))
        session.known = True
    state.tell_client(session.peer, messages.Welcome(session.number, infos, state.credit, state.all_workers))


def _choose(state: DispatcherState, sharding: Sharding | None) -> tuple[Peer, ...]:
    """Workers for a session: those named, or those with the fewest sessions, in the order of their names.

    Several have to compute the same from the same, so they are alike. None if there are not enough; raises ConfigError for
    names that no worker has.
    """
    by_name = sorted(state.workers, key=lambda p: state.workers[p].info.name)
    if sharding is not None and sharding.workers:
        found = {state.workers[p].info.name: p for p in by_name}
        named = tuple(found[name] for name in sharding.worker_names(tuple(found)))
        return named if len({_kind(state, p) for p in named}) == 1 else ()
    alike: dict[tuple[str, str], list[Peer]] = {}
    for peer in sorted(by_name, key=lambda p: len(state.workers[p].sessions)):
        alike.setdefault(_kind(state, peer), []).append(peer)
    needed = sharding.workers_needed if sharding else 1
    enough = [free[:needed] for free in alike.values() if len(free) >= needed]
    chosen = min(enough, key=lambda free: sum(len(state.workers[p].sessions) for p in free), default=[])
    return tuple(p for p in by_name if p in chosen)


def _kind(state: DispatcherState, worker: Peer) -> tuple[str, str]:
    """What alike workers share: the type of their device, and the version of torch."""
    info = state.workers[worker].info
    return info.device.partition(":")[0], info.torch


def expect(state: DispatcherState, workers: int) -> None:
    """Once workers that were expected have died, nobody waits for them any longer."""
    state.expected_workers = workers
    _dismiss(state)


def _dismiss(state: DispatcherState) -> None:
    """Send those away who wait for workers that will not come."""
    for session in [s for s in state.sessions.values() if not s.workers and not s.epoch]:
        if unfit := _unservable(state, session.sharding):
            state.remove_session(session.peer)
            state.tell_client(session.peer, messages.Rejected(f"its workers ended before they were ready; {unfit}"))


def end_session(state: DispatcherState, peer: Peer) -> bool:
    """End a client's session; False if it has none."""
    session = state.remove_session(peer)
    if session is None:
        return False
    if session.known:
        for worker in session.workers:
            state.tell_worker(worker, messages.EndSession(session.number))
    turns.feed(state, session.workers)
    return True


def register(state: DispatcherState, peer: Peer, message: messages.Register) -> None:
    """Add a worker and give it the sessions that wait for one, or say why not."""
    if message.protocol != messages.PROTOCOL:
        reason = f"the worker speaks protocol {message.protocol}, this dispatcher {messages.PROTOCOL}"
        state.tell_worker(peer, messages.Rejected(reason))
    elif peer in state.workers:
        state.malformed += 1
    elif unfit := _unfit(message.info):
        state.malformed += 1
        state.tell_worker(peer, messages.Rejected(unfit))
    else:
        state.workers[peer] = WorkerState(message.info)
        state.tell_worker(peer, messages.Registered())
        for session in state.sessions.values():
            if not session.workers:
                place(state, session)
        _dismiss(state)


def lose_worker(state: DispatcherState, peer: Peer) -> None:
    """A worker is gone with all it held: its sessions begin anew on another one."""
    worker = state.workers.pop(peer, None)
    if worker is None:
        return
    reason = (
        f"worker {worker.info.name} (pid {worker.info.pid} on {worker.info.host}, {worker.info.device}) died;"
        " every tensor of this session was on it and is gone"
    )
    for session in [s for s in state.sessions.values() if peer in s.workers]:
        for other in session.workers:
            if other != peer:  # its part of the tensors is worth nothing without the others
                state.tell_worker(other, messages.EndSession(session.number))
        state.displace(session)
        place(state, session)
        state.tell_client(session.peer, messages.SessionLost(reason, session.epoch))
    _dismiss(state)
    turns.feed(state, state.workers)


def _unfit(info: messages.WorkerInfo) -> str:
    """Why a worker's own words cannot be repeated to others; empty if they can."""
    for name, longest in LONGEST.items():
        text = getattr(info, name)
        if not text.isprintable() or len(text) > longest:
            return f"the worker's {name}: at most {longest} printable characters"
    if sum(len(folder) + 1 for folder in info.data_dirs or ()) > MAX_FOLDERS:
        return f"the worker's folders: at most {MAX_FOLDERS} characters"
    return ""
