"""NTP queries that compare the local clock with a time server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import ntplib

from ingest.concurrency import run_in_daemon_thread
from storage.clock import TimeSource, WallTime
from storage.errors import VenueError
from storage.logs import get_logger

logger = get_logger(__name__)

NTP_TIMEOUT_S: Final = 5.0
_LEAP_UNSYNCHRONISED: Final = 3
_MOST_STRATUM: Final = 15


class AnswerSink(Protocol):
    """Journals an answer."""

    def answer(self, request: dict[str, Any], response: bytes, asked_ns: int) -> None:
        """Journal the answer to a request that was sent at `asked_ns`."""


def ask_ntp(server: str, *, timeout_s: float = NTP_TIMEOUT_S) -> dict[str, Any]:
    """Query a time server once and return `offset_ms` (our clock minus the server's), `delay_ms` and `stratum`.

    Blocks; run it in a thread.

    Raises:
        VenueError: no answer, or one that RFC 5905 says not to trust: a kiss of death (stratum 0), a server that
            is not synchronised, or an answer to another query.
    """
    host, _, port = server.partition(":")
    asked_s = time.time()
    try:
        reply = ntplib.NTPClient().request(host, version=4, port=port or "ntp", timeout=timeout_s)
    except (ntplib.NTPException, OSError) as error:
        raise VenueError(
            f"the time server {server} does not answer: {error}", hint="set record.ntp_server"
        ) from error
    if not asked_s - 1 <= reply.orig_time <= time.time() + 1:
        raise VenueError(f"the time server {server} answered another query")
    if reply.leap == _LEAP_UNSYNCHRONISED or not 1 <= reply.stratum <= _MOST_STRATUM:
        raise VenueError(
            f"the time server {server} is not synchronised (stratum {reply.stratum}, leap {reply.leap})",
            hint="set record.ntp_server to another one",
        )
    return {
        "server": server,
        "offset_ms": -reply.offset * 1000,  # NTP's offset is theirs minus ours
        "delay_ms": reply.delay * 1000,
        "stratum": reply.stratum,
    }


async def watch_clock(
    sink: AnswerSink,
    stop: asyncio.Event,
    *,
    server: str,
    every_s: float,
    clock: TimeSource | None = None,
    ask: Callable[[str], dict[str, Any]] = ask_ntp,
) -> None:
    """Journal a reading of both clocks and a time server's answer every `every_s`, until `stop` is set.

    Args:
        sink: journals answers `{"type": "clock"}` and `{"type": "ntp"}`; a failed query is journalled too.
        server: `host` or `host:port`; empty: only the readings.
        clock: our wall clock.
        ask: queries the server, in a daemon thread.
    """
    clock = clock or WallTime()
    answered: bool | None = None
    while not stop.is_set():
        wall_ns, mono_ns = clock.now_ns(), time.monotonic_ns()
        sink.answer({"type": "clock"}, _json({"wall_ns": wall_ns, "mono_ns": mono_ns}), wall_ns)
        if server:
            asked_ns = clock.now_ns()
            try:
                answer = await run_in_daemon_thread(lambda: ask(server), name="time server")
            except VenueError as error:
                answer = {"error": error.message}
                if answered is not False:
                    logger.warning("time server silent", server=server, reason=error.message)
            if not answered and "error" not in answer:
                logger.info("time server answers", server=server, offset_ms=round(answer["offset_ms"], 1))
            answered = "error" not in answer
            sink.answer({"type": "ntp", "server": server}, _json(answer), asked_ns)
        try:
            await asyncio.wait_for(stop.wait(), every_s)
        except TimeoutError:
            continue


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()
