"""The person at the keyboard, as tables of events name them."""

from __future__ import annotations

import getpass
import socket


def current_author() -> str:
    """Return `user@host`; a user without a name, as in a container, is `unknown`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
