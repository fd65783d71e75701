"""The exceptions of the whole package.

An exception is for a fault; the outcome of a build, an evaluation or a push is a value (`model`).
Every message says what failed, on what, and what to do about it.
"""


class ReconcilerError(Exception):
    """A fault that is explained to the user in one message, without a traceback."""

    exit_status = 1


class UsageError(ReconcilerError):
    """The user's input is wrong; the message names the place and the mend."""

    exit_status = 2


class StateError(ReconcilerError):
    """The state directory or its database cannot be used as it is."""

    exit_status = 4


class NixError(ReconcilerError):
    """Nix refused or failed an operation; the message is Nix's own, with what was asked of it."""


class NoNixError(NixError):
    """The machine has no Nix that could be used: none on PATH, too old, refusing its own
    configuration, or with a daemon that is not reached.
    """

    exit_status = 4


class ConnectionLostError(NixError):
    """The Nix daemon went away, stalled or spoke garbage: infrastructure, worth a retry."""

    @property
    def passing(self) -> bool:
        """Whether it may pass by itself, and does not last until somebody mends something."""
        return True


class SourceError(ReconcilerError):
    """A jobset's source cannot be resolved (no such repository, revision, file)."""


class CacheError(ReconcilerError):
    """A binary cache cannot be read or written as configured."""
