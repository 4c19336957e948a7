"""Which errors does tickwalk raise for mistakes that a person can mend?

One tree, so that a caller catches `TickwalkError` and a command prints message and hint without a traceback.
"""

from __future__ import annotations


class TickwalkError(Exception):
    """What happened with the value, and the rule it broke; `hint` is the next step.

    Args:
        message: one sentence for the person who reads it at night.
        hint: what to do next; empty when the message says it all.
        facts: the values involved, kept as attributes of `facts` for programs.
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


class CaptureError(TickwalkError):
    """A file is not a capture that we know how to replay."""


class JournalError(TickwalkError):
    """A journal cannot be written or read."""


class LakeError(TickwalkError):
    """The lake cannot be opened, read, or committed to."""


class RangeError(TickwalkError):
    """A time range is empty, reversed, or holds too little data for what was asked."""


class InstrumentError(TickwalkError):
    """An instrument is unknown, or a short name is ambiguous."""


class VenueError(TickwalkError):
    """A venue refused, or answered something that the wire contract does not allow."""


class LeakError(TickwalkError):
    """Something looked ahead: a feature proof, a fold check or the canary failed."""


class CheckpointError(TickwalkError):
    """A checkpoint is missing, damaged, or was made by other code or data than asked."""


class GateError(TickwalkError):
    """The promotion gate cannot be evaluated, or a promotion by hand breaks its rule."""
