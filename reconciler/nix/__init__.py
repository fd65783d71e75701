"""Nix, spoken to directly: the worker-protocol client and the reader of derivation files.

A small library of its own: outside it, nothing knows what travels between us and a daemon.
"""

from reconciler.nix.connection import Connection
from reconciler.nix.derivation import parse as parse_derivation
from reconciler.nix.derivation import read as read_derivation
from reconciler.nix.endpoint import CommandEndpoint, Endpoint, SocketEndpoint, local_endpoint
from reconciler.nix.logs import (
    ActivityKind,
    ActivityResult,
    ActivityStarted,
    ActivityStopped,
    BuildLog,
    LogHandler,
    LogRecord,
    Message,
    PhaseStarted,
    Progress,
)
from reconciler.nix.protocol import (
    BuildResult,
    BuildStatus,
    ClientOptions,
    Garbage,
    GarbageAction,
    GarbageOptions,
    Missing,
    Verbosity,
)

__all__ = [
    "ActivityKind",
    "ActivityResult",
    "ActivityStarted",
    "ActivityStopped",
    "BuildLog",
    "BuildResult",
    "BuildStatus",
    "ClientOptions",
    "CommandEndpoint",
    "Connection",
    "Endpoint",
    "Garbage",
    "GarbageAction",
    "GarbageOptions",
    "LogHandler",
    "LogRecord",
    "Message",
    "Missing",
    "PhaseStarted",
    "Progress",
    "SocketEndpoint",
    "Verbosity",
    "local_endpoint",
    "parse_derivation",
    "read_derivation",
]
