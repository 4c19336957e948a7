"""Lineage of a bar from its numbers to the bytes of a frame."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ingest.backfill.candle_files import import_candles
from ingest.journal.format import segments
from ingest.journal.reader import find_records, read_journal
from ingest.journal.records import RecordKind
from ingest.replay.replay import replay
from ingest.simulator.venue import SimulatedVenue
from serving.cli import app
from serving.explain.bars import explain
from storage.clock import parse_time_ns
from storage.errors import InstrumentError, RangeError
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.conftest import recorded
from tests.drills.candles_of_capture import lines_of, write_candles
from tests.drills.running import live_market, port_of, quick, running, whole
from tests.ingest.pipeline.scripts import START_NS, Script

AT = "2025-09-04T19:47:30Z"


Home = tuple[Settings, Lake]
"""A home, and its lake, open: each opening costs some tenths of a second."""


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Two minutes of a capture, only to be read."""
    folder = tmp_path_factory.mktemp("explain")
    settings = Settings(home=folder / "home")
    capture = folder / "capture.ndjson"
    capture.write_text("".join(lines_of(recorded("hyperliquid/ws_20250904_4coins.ndjson.gz"), 4_500)))
    with Lake.open(settings) as lake:
        replay(capture, settings, lake)
        yield settings, lake


def told(home: Home, name: str = "BTC", at: str = AT, width: str = "1m") -> str:
    settings, lake = home
    return "\n".join(explain(lake, settings, name=name, at_ns=parse_time_ns(at), width=width))


def test_each_number_is_traced_to_a_print_its_frame_and_its_bytes(replayed: Home) -> None:
    text = told(replayed)
    assert "hyperliquid|perp|BTC, 1m bar 2025-09-04T19:47:00.000Z to 2025-09-04T19:48:00.000Z" in text
    assert re.search(
        r"0: printed, live, watched 60,000 ms, \d+ trades; knowable .* \(close \+2\.000 s\); replay:", text
    )
    assert re.search(r"snapshot \d+", text)
    assert re.search(r"the \d+ prints in the lake give the same numbers", text)
    prints = (
        replayed[1]
        .query(
            "SELECT tid, price, frame, journal FROM trades WHERE instrument = 'hyperliquid|perp|BTC' "
            "AND ts_event >= '2025-09-04 19:47:00+00' AND ts_event < '2025-09-04 19:48:00+00' ORDER BY ts_event, rowid"
        )
        .to_pylist()
    )
    for what, item in (("open", prints[0]), ("close", prints[-1])):
        assert re.search(rf"{what}\b.*: {item['price']:.12g} x .* tid {item['tid']},", text)
        assert f"frame {item['frame']} of {item['journal']}, connection 0, 000000.twj block at" in text
        assert f'"tid":{item["tid"]}' in text
    assert re.search(r"  watched 2025-09-04T19:4\d:.* to .*; inferred\), connection 0 of capture-", text)
    assert max(map(len, text.splitlines())) < 260
    assert len(text.splitlines()) < 45


def test_deleted_journal_is_reported(replayed: Home, tmp_path: Path) -> None:
    shutil.copytree(replayed[0].home, tmp_path / "home")
    settings = dataclasses.replace(replayed[0], home=tmp_path / "home")
    (folder,) = [path for path in settings.journal_dir.iterdir() if path.is_dir()]
    shutil.rmtree(folder)
    note = {"recording": folder.name, "removed": "2026-01-01T00:00:00.000Z", "copy": "s3://vault/x"}
    with Lake.open(settings, read_only=True) as lake:
        assert "its journal is not on this disk" in told((settings, lake))
        (settings.journal_dir / "removed.ndjson").write_text(json.dumps(note) + "\n")
        text = told((settings, lake))
    assert "was deleted on 2026-01-01T00:00:00.000Z (keep.journal_days); a copy is in s3://vault/x" in text
    assert "prints in the lake give the same numbers" in text


def test_missing_bar_is_refused_with_the_existing_range(replayed: Home) -> None:
    with pytest.raises(InstrumentError, match="the lake holds no 1m bar of 'btc'"):
        told(replayed, "btc")
    with pytest.raises(InstrumentError, match="no 5m bar of 'BTC'"):
        told(replayed, width="5m")
    match = r"no 1m bar at 2026-01-01T00:00:00.000Z; its bars range from 2025-09-04T19:46:00.000Z to"
    with pytest.raises(RangeError, match=match):
        told(replayed, at="2026-01-01")


def test_name_of_two_instruments_is_refused(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        for venue in ("hyperliquid", "other"):
            script = Script().open(0).known(0.05).alive(0.6, 125)
            chosen = dataclasses.replace(settings, record=dataclasses.replace(settings.record, venue=venue))
            replay(script.write(settings.journal_dir / venue), chosen, lake)
        two = "'BTC' is 2 instruments: hyperliquid|perp|BTC, other|perp|BTC"
        with pytest.raises(InstrumentError, match=re.escape(two)):
            told((settings, lake), "BTC", "2026-01-05T00:00:30Z")
        assert "quiet" in told((settings, lake), "other|perp|BTC", "2026-01-05T00:00:30Z")


def test_gap_repair_discrepancy_and_certificate_are_shown(settings: Settings) -> None:
    script = (
        Script()
        .open(0)
        .alive(0.6, 30)
        .close(30, 0, "connection lost")
        .open(40, 1)
        .alive(40.6, 200, connection=1)
    )
    for second in (5, 65, 125):
        script.print(second, connection=int(second > 40))
    open_ms = Script.venue_ms(60)
    candle = {"t": open_ms, "T": open_ms + 59_999, "s": "BTC", "i": "1m", "n": 1, "v": "1.0"}
    candle |= dict.fromkeys(("o", "h", "l", "c"), "100.0")
    req = {
        "coin": "BTC",
        "interval": "1m",
        "startTime": Script.venue_ms(0),
        "endTime": Script.venue_ms(180) - 1,
    }
    wrong = candle | {"t": open_ms + 60_000, "T": open_ms + 119_999, "n": 2}
    script.answer(400, {"type": "candleSnapshot", "req": req}, [candle, wrong]).clock(500)
    with Lake.open(settings) as lake:
        replay(script.write(settings.journal_dir / "made"), settings, lake)
        blind, whole, unlike = (
            told((settings, lake), at=f"2026-01-05T00:0{at}Z") for at in ("0:00", "1:59", "2:30")
        )
    assert "blind (connection lost)" in blind
    assert "gap 2026-01-05T00:00:" in blind
    assert "short: ours 1 trade, the venue's trades not counted" in blind
    assert "1: printed, certified, live" in whole
    assert "(close +280.000 s)" in whole
    assert "trades: ours 1, theirs 2 (revision 0, T+2m, 2026-01-05T00:06:40.000Z)" in unlike


def test_bar_derived_from_a_candle_shows_the_candle(settings: Settings) -> None:
    row: dict[str, Any] = {"coin": "BTC", "t": START_NS // 1_000_000, "volume": 2.0, "trades": 2}
    row |= dict.fromkeys(("open", "high", "low", "close"), 100.0)
    file = write_candles([row, row | {"t": row["t"] + 60_000}], settings.home.parent / "some.parquet")
    with Lake.open(settings) as lake:
        import_candles(file, settings, lake, width="1m")
        text = told((settings, lake), at="2026-01-05")
    assert "derived from the venue's candle below, not from prints" in text
    assert "open 100, high 100, low 100, close 100, volume 2, trades 2; some.parquet#" in text


async def test_a_recording_of_a_venue_is_explained_down_to_its_connection(settings: Settings) -> None:
    """Over a real socket; the frame that the text names is read once more by hand."""
    async with SimulatedVenue(live_market(), clock="real", wait_for_subscriptions=0) as venue:
        settings = quick(settings, port_of(venue))
        async with running(settings) as held:
            await held.until(lambda vitals: whole(vitals, 2))
    with Lake.open(settings, read_only=True) as lake:
        bar = lake.query(
            "SELECT instrument, epoch_us(ts_open) * 1000 AS at_ns FROM bars_latest "
            "WHERE status = 'printed' AND trades > 2 ORDER BY ts_open DESC LIMIT 1"
        ).to_pylist()[0]
        lines = explain(lake, settings, name=bar["instrument"], at_ns=bar["at_ns"] + 1, width="1s")
    text = "\n".join(lines)
    assert "give the same numbers" in text
    frame, recording, connection, segment = re.findall(
        r"frame (\d+) of (\S+), connection (\d+), (\S+) block at", text
    )[0]
    tid = re.findall(r"open\b.*: .* tid (\d+),", text)[0]
    record = next(r for r in read_journal(settings.journal_dir / recording) if r.frame == int(frame))
    assert (record.kind, record.connection) == (RecordKind.FRAME, int(connection))
    assert f'"tid":{tid}' in record.body.decode().replace(" ", "")
    assert segment in {path.name for path in segments(settings.journal_dir / recording)}


def test_damaged_block_hides_only_its_own_frames(replayed: Home, tmp_path: Path) -> None:
    (folder,) = [path for path in replayed[0].journal_dir.iterdir() if path.is_dir()]
    records = {record.frame: record for record in read_journal(folder)}
    wanted = [0, 1, len(records) // 2, len(records) - 1]
    found = find_records(folder, [*wanted, len(records) + 5])
    assert {number: item[2] for number, item in found.items()} == {
        number: records[number] for number in wanted
    }
    assert len({item[1] for item in found.values()}) > 1, "several blocks"
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    (segment,) = segments(copy)
    data = bytearray(segment.read_bytes())
    data[found[wanted[2]][1] + 60] ^= 0xFF
    segment.write_bytes(bytes(data))
    assert wanted[2] not in find_records(copy, wanted)
    assert set(find_records(copy, wanted)) >= {wanted[3]}


def test_command_prints_the_lines_and_errors_name_the_next_step(replayed: Home) -> None:
    run = CliRunner().invoke(app, ["--home", str(replayed[0].home), "explain", "BTC", AT])
    assert run.exit_code == 0, run.output
    assert "prints and frames:" in run.output
    shown = CliRunner().invoke(app, ["--home", str(replayed[0].home), "explain", "BTC", "2026-01-01"])
    assert isinstance(shown.exception, RangeError)
