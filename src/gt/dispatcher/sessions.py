"""Who is here, and who works for whom: sessions are opened, placed, lost and ended; workers register and are lost.

A session is placed on the worker with the fewest sessions.
"""

from __future__ import annotations

from gt.dispatcher.events import Peer
from gt.dispatcher.state import SessionState, State, WorkerState
from gt.wire import messages

LONGEST = {"name": 100, "host": 255, "device": 100, "torch": 100}
"""The most characters in what a worker says about itself, which errors and logs repeat to others."""
MAX_FOLDERS = 1 << 16
"""The most characters in all its folders together, which clients compare with theirs."""
NO_WORKER = "the service has no worker: add one with `gt worker --connect ADDRESS`"


def open_session(state: State, peer: Peer, hello: messages.Hello) -> None:
    """Open a client's session, or say why not."""
    if hello.protocol != messages.PROTOCOL:
        reason = f"the client speaks protocol {hello.protocol}, this dispatcher {messages.PROTOCOL}: install one version"
        state.tell_client(peer, messages.Rejected(reason))
    elif peer in state.clients:
        state.malformed += 1
    elif not state.workers and not state.expected_workers:
        state.tell_client(peer, messages.Rejected(NO_WORKER))
    else:
        place(state, state.add_session(peer))


def place(state: State, session: SessionState) -> None:
    """Put a session on a worker and tell its client; without a worker it waits for the first that registers."""
    if not state.workers:
        return
    peer = min(state.workers, key=lambda p: (len(state.workers[p].sessions), state.workers[p].info.name))
    state.place(session, (peer,))
    infos = tuple(state.workers[p].info for p in session.workers)
    state.tell_client(session.peer, messages.Welcome(session.number, infos, state.credit))


def expect(state: State, workers: int) -> None:
    """Once the last of the expected workers has died, nobody waits for it any longer."""
    state.expected_workers = workers
    if workers or state.workers:
        return
    reason = f"its workers ended before they were ready; {NO_WORKER}"
    for session in [s for s in state.sessions.values() if not s.workers and not s.epoch]:
        state.remove_session(session.peer)
        state.tell_client(session.peer, messages.Rejected(reason))


def end_session(state: State, peer: Peer) -> bool:
    """End a client's session; False if it has none."""
    session = state.remove_session(peer)
    if session is None:
        return False
    if session.known:
        for worker in session.workers:
            state.tell_worker(worker, messages.EndSession(session.number))
    return True


def register(state: State, peer: Peer, message: messages.Register) -> None:
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


def lose_worker(state: State, peer: Peer) -> None:
    """A worker is gone with all it held: its sessions begin anew on another one."""
    worker = state.workers.pop(peer, None)
    if worker is None:
        return
    reason = (
        f"worker {worker.info.name} (pid {worker.info.pid} on {worker.info.host}, {worker.info.device}) died;"
        " every tensor of this session was on it and is gone"
    )
    for session in [s for s in state.sessions.values() if peer in s.workers]:
        state.displace(session)
        place(state, session)
        state.tell_client(session.peer, messages.SessionLost(reason, session.epoch))


def _unfit(info: messages.WorkerInfo) -> str:
    """Why a worker's own words cannot be repeated to others; empty if they can."""
    for name, longest in LONGEST.items():
        text = getattr(info, name)
        if not text.isprintable() or len(text) > longest:
            return f"the worker's {name}: at most {longest} printable characters"
    if sum(len(folder) + 1 for folder in info.data_dirs or ()) > MAX_FOLDERS:
        return f"the worker's folders: at most {MAX_FOLDERS} characters"
    return ""
