"""A pytest plugin that makes httpx's default TLS context once: reading the certificates takes 36 ms for each client."""

from __future__ import annotations

from functools import cache
from typing import Any

import httpx._transports.default as transports

_create = transports.create_ssl_context
_default = cache(lambda trust_env: _create(trust_env=trust_env))


def pytest_configure() -> None:
    """Replace the function by which a client makes its context."""
    transports.create_ssl_context = _context  # type: ignore[attr-defined]


def _context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
    if verify is True and cert is None:
        return _default(trust_env)
    return _create(verify=verify, cert=cert, trust_env=trust_env)
