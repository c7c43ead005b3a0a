"""The exceptions of GT's own.

    GTError
    ├── ConfigError            a setting or a file of settings is wrong            (also ValueError)
    ├── ProtocolError          a peer sent what the protocol does not allow
    ├── ConnectionLostError    the dispatcher cannot be reached, or went away      (also ConnectionError)
    │   └── ForkError          a forked child touched a tensor of its parent
    ├── WorkerLostError        a worker died; its tensors are gone                 (also RuntimeError)
    ├── PeerError              a worker left the others of its session             (also RuntimeError)
    ├── StartError             the embedded service did not start                  (also RuntimeError)
    └── RefusedError           GT cannot do this correctly, so it refuses          (also NotImplementedError)

Mistakes in a user's program keep PyTorch's own exception type. Where such an error surfaces later than the line that
caused it, the message ends with `issued at FILE:LINE`.
"""

from __future__ import annotations


class GTError(Exception):
    """Base of GT's own exceptions."""


class ConfigError(GTError, ValueError):
    """A setting has an unknown name or a value that cannot be used."""


class ProtocolError(GTError):
    """A peer sent a frame that the protocol does not allow."""


class ConnectionLostError(GTError, ConnectionError):
    """The dispatcher cannot be reached, or went away."""


class ForkError(ConnectionLostError):
    """A forked child touched a remote tensor; sessions are not inherited."""


class WorkerLostError(GTError, RuntimeError):
    """A worker died and the tensors it held are gone."""


class PeerError(GTError, RuntimeError):
    """A worker could not go on with the others of its session, because one of them failed: whose own error is the cause."""


class StartError(GTError, RuntimeError):
    """The embedded dispatcher or worker did not start."""


class RefusedError(GTError, NotImplementedError):
    """GT does not support this operation and will not guess."""
