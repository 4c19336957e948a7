"""The probe keeps raw answers over real sockets, and reports missing ones."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from ingest.journal.captures import read_capture
from ingest.probe.requests import ACADEMY_URL, gaiaex_hosts, gaiaex_urls
from ingest.probe.runner import Probe, ProbeFinding
from ingest.probe.summary import (
    ChannelSummary,
    describe_answer,
    describe_gaiaex_frames,
    describe_offset,
    summarize_channels,
)
from ingest.simulator.venue import SimulatedVenue
from ingest.venues.gaiaex.protocol import ALTERNATE_WS_URL
from serving.cli import main
from storage.clock import MS_NS, NS
from storage.errors import SettingsError, VenueError
from storage.settings import Settings, load_settings
from storage.settings.recording import GaiaexSettings
from tests.ingest.simulator.clients import market

# What the simulated venue does not serve; the probe must say so and go on.
NOT_SERVED = {
    "predictedFundings",
    "perpCategories",
    "outcomeMeta",
    "socket outcomeMetaUpdates",
    "health",
    "fapi/v1/time",
}


def settings_for(venue: SimulatedVenue, *symbols: str) -> Settings:
    values: dict[str, Any] = {
        "record.ws_url": venue.ws_url,
        "record.info_url": venue.info_url,
        "record.explorer_url": venue.explorer_url,
        "gaiaex.ws_url": venue.gaia_ws_url,
        "gaiaex.rest_url": venue.gaia_rest_url,
        "gaiaex.symbols": ",".join(symbols or ("BTC",)),
    }
    return load_settings(overrides=values, environ={})


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, ProbeFinding]]:
    """Return the folder and the findings of one probe of both venues."""
    folder = tmp_path_factory.mktemp("probe") / "out"

    async def look() -> list[ProbeFinding]:
        async with SimulatedVenue(market(), clock="real", speed=30.0, on_end="hold") as venue:
            return await Probe(settings_for(venue, "BTC", "NOPE"), folder, seconds=1.2).run()

    findings = asyncio.run(look())
    by_name = {item.what: item for item in findings}
    assert len(by_name) == len(findings) > 30
    return folder, by_name


def test_served_channels_are_answered_and_the_others_are_reported(
    probed: tuple[Path, dict[str, ProbeFinding]],
) -> None:
    silent = {what for what, item in probed[1].items() if not item.answered}
    assert silent == NOT_SERVED | {"book NOPE"}
    assert (probed[1]["predictedFundings"].status, probed[1]["meta"].status) == ("422", "200")


@pytest.mark.parametrize(
    ("what", "note"),
    [
        ("meta", "2 listed, 1 delisted"),
        ("exchangeStatus", r"venue clock -\d+ ms from ours, within \d+ ms"),
        ("recentTrades", r"10 trades over [\d.]+ s"),
        ("socket candle", r"\d+ frames, n \d+"),
        (
            "socket l2Book",
            r"\d+ frames, every (4\.[5-9]\d*|5(\.\d+)?) s by the venue's time, 20 levels a side",
        ),
        ("socket l2Book fast", r"\d+ frames, every 0\.[45]\d* s by the venue's time, 5 levels a side"),
        ("explorer explorerBlock", r"\d+ frames, every [\d.]+ s by the venue's time"),
        ("gaia/v1/trade/symbols/list", "2 symbols, generation G2"),
        ("book BTC", r".*\d+ orderbook, .*a heartbeat every [\d.]+ s, generation G2"),
        ("book NOPE", "1 error, SYMBOL_NOT_SUPPORTED"),
    ],
)
def test_findings_answer_what_the_pages_leave_open(
    probed: tuple[Path, dict[str, ProbeFinding]], what: str, note: str
) -> None:
    assert re.fullmatch(note, probed[1][what].note), probed[1][what].note


def test_an_answer_is_kept_raw_with_where_when_and_how_fast(
    probed: tuple[Path, dict[str, ProbeFinding]],
) -> None:
    folder, findings = probed
    kept = json.loads((folder / findings["meta"].file).read_text())
    assert [item["name"] for item in json.loads(kept["body"])["universe"]] == ["BTC", "SOL", "MATIC"]
    assert (kept["request"], kept["status"]) == ({"type": "meta"}, 200)
    assert kept["url"].endswith("/info")
    assert kept["asked_at"].startswith("20")
    assert kept["latency_ms"] > 0
    assert kept["headers"]["content-type"].startswith("application/json")


def test_frames_are_kept_as_a_capture_that_replay_reads(probed: tuple[Path, dict[str, ProbeFinding]]) -> None:
    folder, findings = probed
    for what in ("socket trades", "explorer explorerBlock", "book BTC"):
        path = folder / findings[what].file
        head = json.loads(path.with_suffix(".json").read_text())
        frames = list(read_capture(path))
        assert len(frames) == head["frames"] > 3
        assert [recv_ns for recv_ns, _ in frames] == sorted(recv_ns for recv_ns, _ in frames)
    assert b"pong" in {frame for _, frame in read_capture(folder / findings["book BTC"].file)}
    assert len(json.loads((folder / "findings.json").read_text())) == len(findings)


async def test_the_first_generation_of_gaiaex_is_told_from_the_second(tmp_path: Path) -> None:
    """F30."""
    async with SimulatedVenue(
        market(), clock="real", speed=30.0, on_end="hold", gaia_generation="G1"
    ) as venue:
        probe = Probe(settings_for(venue), tmp_path / "out", seconds=0.3)
        findings = {item.what: item for item in await probe.run(["gaiaex"])}
    assert "generation G1" in findings["book BTC"].note


def closed_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def test_venues_that_cannot_be_reached_are_reported_and_end_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = f"127.0.0.1:{closed_port()}"
    values = {
        "record.ws_url": f"ws://{host}/ws",
        "record.info_url": f"http://{host}/info",
        "record.explorer_url": f"ws://{host}/explorer",
        "gaiaex.ws_url": f"ws://{host}/market",
        "gaiaex.rest_url": f"http://{host}/v1",
    }
    chosen = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main([*chosen, "probe", "--out", str(out), "--seconds", "0.2"])
    assert ended.value.code == 1
    findings = json.loads((out / "findings.json").read_text())
    assert {(item["answered"], item["status"]) for item in findings} == {(False, "not reached")}
    assert {item["note"] for item in findings} == {
        "Connection refused",
        "ConnectError: All connection attempts failed",
    }
    printed = capsys.readouterr().out
    assert f"0 of {len(findings)} answered" in printed
    assert "not reached" in printed


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "kept.json").touch()
    with pytest.raises(SettingsError, match="is not empty"):
        Probe(settings, tmp_path, seconds=1.0)


def test_other_hosts_are_probed_only_without_a_configured_one() -> None:
    default = GaiaexSettings()
    assert f"{ACADEMY_URL}/time" in gaiaex_urls(default.rest_url)
    assert "https://openapi.gaiaex.com/health" in gaiaex_urls(default.rest_url)
    assert ALTERNATE_WS_URL in gaiaex_hosts(default.ws_url)
    assert {url.split("/")[2] for url in gaiaex_urls("http://mine/v1")} == {"mine"}
    assert gaiaex_hosts("ws://mine") == ["ws://mine"]


# What bytes tell.


def frame(channel: str, data: object) -> tuple[int, bytes]:
    return 1, json.dumps({"channel": channel, "data": data}).encode()


def test_frames_that_do_not_fit_are_counted_with_the_first_reason() -> None:
    """F34: a venue that renamed a field is found here, before a recording."""
    frames = [frame("trades", [{"coin": "BTC", "price": "1"}])] * 2 + [(1, b"<html>"), (1, b'[{"h":1}]')]
    heard = summarize_channels(frames, [{"type": "trades", "coin": "BTC"}, {"type": "bbo", "coin": "BTC"}])
    assert re.search(
        r"nothing in 5 s, 2 do not fit: .*missing required field `side`", heard["trades"].describe(5)
    )
    assert heard["no JSON"].misfits == 2
    assert (heard["trades"].answered, heard["bbo"].answered) == (False, False)


def test_a_refusal_names_its_channel_and_acknowledged_silence_is_no_fault() -> None:
    text = 'Invalid subscription {"type":"candle","coin":"BTC"}'
    echo = {"type": "l2Book", "coin": "BTC", "fast": None, "nSigFigs": None}
    frames = [
        frame("error", text),
        frame("subscriptionResponse", {"method": "subscribe", "subscription": echo}),
        (1, b"Websocket connection established."),
    ]
    heard = summarize_channels(frames, [{"type": "candle", "coin": "BTC"}, {"type": "l2Book", "coin": "BTC"}])
    assert heard["candle"].describe(1.0) == f"nothing in 1 s, refused: {text}"
    assert heard["l2Book"].describe(1.0) == "nothing in 1 s, though acknowledged"
    assert {name: item.answered for name, item in heard.items()} == {"candle": False, "l2Book": True}


def test_a_pace_needs_three_instants() -> None:
    assert "every" not in ChannelSummary(frames=2, times_ms={0, 5000}).describe(1)
    assert "every 5 s" in ChannelSummary(frames=3, times_ms={0, 5000, 10_000}).describe(1)


def test_a_clock_is_compared_with_the_middle_of_the_question() -> None:
    told = describe_offset(1500 * MS_NS, 1000 * MS_NS, 1200 * MS_NS)
    assert told == "venue clock +400 ms from ours, within 100 ms"


@pytest.mark.parametrize(
    ("request_", "body"),
    [({"type": "l2Book"}, b"null"), ({"type": "meta"}, b"<html>"), ({"type": "exchangeStatus"}, b"{}")],
)
def test_an_answer_that_does_not_fit_is_no_answer(request_: dict[str, Any], body: bytes) -> None:
    with pytest.raises(VenueError, match="fit"):
        describe_answer(request_, body, 0, NS)


def test_a_silent_relay_is_silent() -> None:
    assert describe_gaiaex_frames([], 2.0) == (0, "nothing in 2 s")
