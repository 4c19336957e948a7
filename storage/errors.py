"""Exceptions for problems that a person can fix.

All derive from `TickwalkError`. The command line prints its message and hint without a traceback.
"""

from __future__ import annotations


class TickwalkError(Exception):
    """Base of all tickwalk errors: what happened with which value, the rule it broke, and a hint for the next step.

    Args:
        message: one sentence for the person who reads it.
        hint: what to do next; empty when the message suffices.
        facts: the values involved, for programs.
    """

    def __init__(self, message: str, *, hint: str = "", **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class SettingsError(TickwalkError):
    """A setting is unknown, of the wrong type, or out of its range."""


class ContractError(TickwalkError):
    """A table does not fit its contract in a way that no single row explains (a column is missing)."""


class ProjectError(TickwalkError):
    """The user's project folder cannot be imported, breaks a rule, or its code failed."""


class CaptureError(TickwalkError):
    """A file is not a capture that can be replayed."""


class JournalError(TickwalkError):
    """A journal cannot be written or read."""


class LakeError(TickwalkError):
    """The lake cannot be opened, read, or committed to."""


class RangeError(TickwalkError):
    """A time range is empty, reversed, or has too little data."""


class NotReadyError(TickwalkError):
    """Data have not arrived yet; the same call succeeds later."""


class InstrumentError(TickwalkError):
    """An instrument is unknown, or a short name is ambiguous."""


class VenueError(TickwalkError):
    """A venue refused a request, or sent an answer that its protocol does not allow."""


class LeakError(TickwalkError):
    """Future data leaked: a feature proof, a fold check or the canary failed."""


class CheckpointError(TickwalkError):
    """A checkpoint is missing, damaged, or was made by other code or data than expected."""


class FitError(TickwalkError):
    """A fit diverged or disagrees with its folds, or its rows cannot train a model.

    Facts where known: `model`, `fold` (-1: the refit), `epoch`, `learning_rate`, `instrument`, `ts_open_ns`.
    """


class HoldoutError(TickwalkError):
    """A range reaches into a sealed holdout, or a seal breaks a rule."""


class GateError(TickwalkError):
    """The promotion gate cannot be evaluated, or a manual promotion breaks its rule."""
