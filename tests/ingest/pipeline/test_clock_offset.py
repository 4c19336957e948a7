"""Clock offset against the venue, a local time server and the monotonic clock."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.pipeline.clock_offset import ClockOffsets, OffsetSample
from ingest.recorder.ntp import ask_ntp, watch_clock
from storage.clock import MS_NS, NS, ManualTime
from storage.contracts.tables import CLOCKS
from storage.contracts.validation import validate
from storage.errors import VenueError
from tests.plugins.property_tests import examples

NOW_NS = 1_767_571_200 * NS
_NTP_EPOCH_S = 2_208_988_800


@contextmanager
def time_server(
    *, ahead_s: float = 0.0, stratum: int = 2, leap: int = 0, echoes: bool = True
) -> Iterator[str]:
    """Serve NTP (RFC 5905, the 48 byte header) on a real UDP socket; its clock is `ahead_s` of this machine's."""

    def stamp(moment_s: float) -> bytes:
        ntp = moment_s + _NTP_EPOCH_S
        return struct.pack("!II", int(ntp), int(ntp % 1 * 2**32))

    def serve() -> None:
        while True:
            question, asker = server.recvfrom(512)
            if not question:
                return
            got = stamp(time.time() + ahead_s)
            head = struct.pack("!BBbb11x", leap << 6 | 4 << 3 | 4, stratum, 6, -20) + b"\0"
            origin = question[40:48] if echoes else stamp(1.0)
            server.sendto(head + got + origin + got + stamp(time.time() + ahead_s), asker)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.sendto(b"", server.getsockname())
            thread.join()


class Ears:
    """Collects the answers that a recorder would journal."""

    def __init__(self, enough: int) -> None:
        self.heard: list[tuple[dict[str, Any], Any, int]] = []
        self.stop = asyncio.Event()
        self._enough = enough

    def answer(self, request: dict[str, Any], response: bytes, asked_ns: int) -> None:
        self.heard.append((request, json.loads(response), asked_ns))
        if len(self.heard) >= self._enough:
            self.stop.set()


@pytest.mark.parametrize("ahead_s", [0.0, 2.5, -1800.0])
def test_a_time_servers_offset_is_ours_less_its(ahead_s: float) -> None:
    with time_server(ahead_s=ahead_s) as server:
        said = ask_ntp(server)
    assert said["offset_ms"] == pytest.approx(-ahead_s * 1000, abs=500)
    assert 0 <= said["delay_ms"] < 5_000


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"stratum": 0}, "not synchronised"),
        ({"leap": 3}, "not synchronised"),
        ({"stratum": 16}, "not synchronised"),
        ({"echoes": False}, "another query"),
    ],
)
def test_an_answer_that_must_not_be_trusted_is_refused(bad: dict[str, Any], why: str) -> None:
    with time_server(**bad) as server, pytest.raises(VenueError, match=why):
        ask_ntp(server)


def test_a_time_server_that_is_not_there_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(VenueError, match=f"{server} does not answer.*record.ntp_server"):
            ask_ntp(server, timeout_s=0.1)


async def test_answers_come_as_journal_records_that_give_rows() -> None:
    ears = Ears(enough=4)
    with time_server(ahead_s=3.0) as server:
        async with asyncio.timeout(120):
            await watch_clock(ears, ears.stop, server=server, every_s=0.01)
    assert [request["type"] for request, _, _ in ears.heard] == ["clock", "ntp"] * 2
    ledger = ClockOffsets("made", limit_ms=1000)
    rows = [
        row
        for request, response, asked_ns in ears.heard
        for row in ledger.add_answer(request, response, asked_ns, asked_ns + MS_NS)
    ]
    assert [row["source"] for row in rows] == ["ntp", "ntp"]
    assert validate(CLOCKS, CLOCKS.rows(rows))[1].num_rows == 0
    assert ledger.verdict(ears.heard[-1][2] + NS) == "off"


async def test_a_silent_time_server_is_a_state_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    ears = Ears(enough=6)

    def refuses(server: str) -> dict[str, Any]:
        raise VenueError(f"{server} does not answer")

    async with asyncio.timeout(120):
        await watch_clock(ears, ears.stop, server="ntp.invalid", every_s=0.001, ask=refuses)
    assert capsys.readouterr().err.count("time server silent") == 1
    ledger = ClockOffsets("made", limit_ms=1000)
    assert [ledger.add_answer(*item, item[2] + 1) for item in ears.heard] == [[]] * 6
    assert ledger.verdict(NOW_NS) == "unknown"


async def test_the_end_does_not_wait_for_a_hanging_server() -> None:
    ears, hangs = Ears(enough=1), threading.Event()

    def ask(server: str) -> dict[str, Any]:
        hangs.wait()
        return {}

    watching = asyncio.create_task(watch_clock(ears, ears.stop, server="slow", every_s=1.0, ask=ask))
    await ears.stop.wait()
    watching.cancel()
    async with asyncio.timeout(120):
        await asyncio.gather(watching, return_exceptions=True)
    hangs.set()


@settings(deadline=None, max_examples=examples(100))
@given(st.integers(-10_000, 10_000), st.integers(0, 4_000), st.integers(0, 4_000))
def test_the_true_offset_lies_within_the_uncertainty(ahead_ms: int, there_ms: int, back_ms: int) -> None:
    """However the round trip is split between the two directions."""
    asked_ns = NOW_NS + ahead_ms * MS_NS
    answer = {"time": NOW_NS // MS_NS + there_ms}
    ledger = ClockOffsets("made", limit_ms=1000)
    received_ns = asked_ns + (there_ms + back_ms) * MS_NS
    (row,) = ledger.add_answer({"type": "exchangeStatus"}, answer, asked_ns, received_ns)
    assert abs(row["offset_ms"] - ahead_ms) <= row["uncertainty_ms"]


@pytest.mark.parametrize(
    ("offset_ms", "uncertainty_ms", "verdict"),
    [(900, 10, "ok"), (1_100, 10, "off"), (-1_100, 10, "off"), (1_100, 200, "ok")],
)
def test_a_clock_is_off_beyond_the_limit_and_any_doubt(
    offset_ms: float, uncertainty_ms: float, verdict: str
) -> None:
    ledger = ClockOffsets("made", limit_ms=1000)
    ledger.add(OffsetSample("venue", NOW_NS, offset_ms, uncertainty_ms, NOW_NS))
    assert ledger.verdict(NOW_NS + NS) == verdict
    assert ledger.verdict(NOW_NS + 3600 * NS) == "unknown", "an hour old, it says nothing of now"
    assert ledger.offsets_ms(NOW_NS) == {"venue": offset_ms}


def test_frames_from_the_future_say_that_our_clock_is_off() -> None:
    ledger = ClockOffsets("made", limit_ms=1000)
    ledger.add(OffsetSample("ntp", NOW_NS, 0.0, 5.0, NOW_NS))
    assert ledger.verdict(NOW_NS, least_lag_ms=-900) == "ok"
    assert ledger.verdict(NOW_NS, least_lag_ms=-1_200) == "off"


@pytest.mark.parametrize(
    ("set_by_ms", "stepped"), [(0, False), (40, False), (-40, False), (2_000, True), (-3_600_000, True)]
)
def test_a_wall_clock_that_was_set_is_found(set_by_ms: int, stepped: bool) -> None:
    ledger, clock = ClockOffsets("made", limit_ms=1000), ManualTime(NOW_NS)
    rows: list[dict[str, Any]] = []
    for minute in range(5):
        wall_ns = clock.now_ns() + minute * 60 * NS + (set_by_ms * MS_NS if minute >= 3 else 0)
        reading = {"wall_ns": wall_ns, "mono_ns": minute * 60 * NS}
        rows += ledger.add_answer({"type": "clock"}, reading, wall_ns, wall_ns)
    assert ledger.stepped == stepped
    assert [row["offset_ms"] for row in rows] == ([pytest.approx(set_by_ms)] if stepped else [])


@pytest.mark.parametrize("response", [None, [], {}, {"time": "1"}, {"time": None}, {"time": True}])
def test_an_answer_without_a_time_is_refused(response: Any) -> None:
    with pytest.raises(VenueError, match=r"time .* is no whole number"):
        ClockOffsets("made", limit_ms=1).add_answer({"type": "exchangeStatus"}, response, 0, 0)
