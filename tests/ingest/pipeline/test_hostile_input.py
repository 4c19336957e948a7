"""Hostile frames, times and disks, which must neither crash the recorder nor prove too much."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from ingest.concurrency import run_in_thread
from ingest.coverage.ledger import TRADES
from ingest.journal.format import hold_recording
from ingest.journal.reader import read_journal
from ingest.journal.recording import SEALED
from ingest.journal.records import RecordKind
from ingest.journal.writer import JournalWriter
from ingest.replay.recovery import recover
from ingest.replay.replay import replay
from storage.contracts.tables import BARS
from storage.contracts.validation import validate
from storage.errors import CaptureError, JournalError
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.ingest.pipeline.scripts import Script, latest, run

PRINT: dict[str, Any] = {"coin": "BTC", "side": "B", "px": "100", "sz": "1", "time": 1, "tid": 1}


def bbo(**changes: Any) -> dict[str, Any]:
    level = {"px": "1", "sz": "1"}
    return {
        "channel": "bbo",
        "data": {"coin": "BTC", "time": Script.venue_ms(30), "bbo": [level, level]} | changes,
    }


@pytest.mark.parametrize(
    "frame",
    [
        bbo(time=10**17),
        bbo(coin="FOO"),
        bbo(bbo=[{"px": "0", "sz": "1"}, None]),
        {"channel": "activeAssetCtx", "data": {"coin": "FOO", "ctx": {}}},
        {"channel": "activeAssetCtx", "data": {"coin": "BTC", "ctx": {"oraclePx": "0.0"}}},
        {"channel": "activeAssetCtx", "data": {"coin": "BTC", "ctx": {"openInterest": "-1"}}},
        {"channel": "l2Book", "data": {"coin": "BTC", "time": 10**17}},
        b'{"channel":"pong","x":' + b'{"a":' * 100_000,
    ],
)
def test_a_frame_out_of_bounds_is_quarantined_and_the_bars_go_on(frame: dict[str, Any] | bytes) -> None:
    _, rows = run(Script().open(0).known(0.05).alive(0.1, 130).frame(31, frame))
    assert len(rows["quarantine"]) == 1
    assert rows["quarantine"][0]["reason"]
    assert [row["status"] for row in latest(rows["bars"]).values()] == ["quiet", "quiet"]
    good, bad = validate(BARS, BARS.rows(rows["bars"]))
    assert (good.num_rows, bad.num_rows) == (len(rows["bars"]), 0)


def test_a_frame_on_a_connection_that_is_not_open_is_quarantined() -> None:
    _, rows = run(Script().open(0).alive(0.1, 70).print(30, connection=7).pong(31, 7))
    assert "connection 7 is not open" in rows["quarantine"][0]["reason"]


@pytest.mark.parametrize("ahead_s", [4.0, 180.0])
def test_a_venue_time_in_the_future_proves_nothing(ahead_s: float) -> None:
    """One quote dated ahead of its receipt, then the socket is lost for good."""
    script = Script().open(0).alive(0.1, 20)
    quote = bbo(time=Script.venue_ms(20 + ahead_s))
    _, rows = run(script.frame(20, quote).close(21).clock(200))
    assert [row["status"] for row in latest(rows["bars"]).values()] == ["blind"] * 3
    assert latest(rows["bars"])[0]["observed_ms"] <= 21_000


def lost(script: Script) -> Script:
    return script.open(0).alive(0.1, 70).print(60.5, event_s=60.0).close(70).open(80, 1)


def bridged(script: Script) -> bool:
    _, rows = run(script.alive(80.5, 130, connection=1))
    return any(row["bridged"] for row in rows["coverage"] if row["channel"] == TRADES)


def test_a_print_twice_in_one_resent_batch_is_no_overlap() -> None:
    script = lost(Script())
    twice = script.a_print(75.0)
    assert not bridged(script.prints(80.2, [twice, twice], 1))


def test_an_unusable_print_in_the_resent_batch_is_no_reach_back() -> None:
    script = lost(Script())
    assert not bridged(script.prints(80.2, [script.a_print(75.0), PRINT | {"time": 0}], 1))


def test_a_batch_that_was_lost_with_its_connection_is_made_up_for_by_the_next() -> None:
    """Two losses in a row: the second connection's batch reaches back over both gaps."""
    script = Script()
    known = script.a_print(59.0)
    script.open(0).alive(0.1, 70).prints(60.5, [known, script.a_print(60.0)]).close(70).open(80, 1)
    script.close(81, 1).open(85, 2)
    script.prints(85.2, [known, script.a_print(75.0), script.a_print(83.0)], 2)
    _, rows = run(script.alive(85.5, 130, connection=2))
    bar_ = latest(rows["bars"])[1]
    assert (bar_["status"], bar_["repaired"], bar_["trades"]) == ("printed", True, 3)


def test_already_subscribed_is_an_acknowledgement() -> None:
    script = Script().open(0)
    acks = [record for record in script.records if b'"trades"' in record.body]
    script.records = [record for record in script.records if record not in acks]
    text = 'Already subscribed: {"type":"trades","coin":"BTC"}'
    _, rows = run(script.frame(0.05, {"channel": "error", "data": text}).known(0.06).alive(0.1, 130))
    assert latest(rows["bars"])[1]["status"] == "quiet"


def test_a_late_print_before_the_stop_is_published_with_it() -> None:
    _, rows = run(Script().open(0).alive(0.1, 80).print(30).print(65, event_s=45.0).stop(80))
    assert latest(rows["bars"])[0]["trades"] == 2


def test_a_refused_write_ends_the_journal_and_what_was_synced_is_whole(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "r")
    for number in range(5):
        journal.append(number, RecordKind.FRAME, 0, b"good")
    journal.sync()
    assert journal._handle is not None
    real = os.dup(journal._handle)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._handle)
    journal.append(5, RecordKind.FRAME, 0, b"lost")
    with pytest.raises(JournalError, match="cannot be written"):
        journal.sync()
    journal.append(6, RecordKind.FRAME, 0, b"after")
    with pytest.raises(JournalError, match="is closed"):
        journal.sync()
    journal.close()
    os.close(real)
    assert [record.body for record in read_journal(tmp_path / "r")] == [b"good"] * 5


def test_a_recording_in_use_is_neither_replayed_nor_recovered(settings: Settings) -> None:
    settings.ensure_home()
    with JournalWriter(settings.journal_dir / "live") as journal, Lake.open(settings) as lake:
        journal.append(1, RecordKind.FRAME, 0, b"x")
        journal.sync()
        with pytest.raises(JournalError, match="live is in use"):
            replay(settings.journal_dir / "live", settings, lake)
        assert recover(settings, lake) == []
    hold_recording(settings.journal_dir / "live").close()


def test_a_recording_that_cannot_be_replayed_does_not_stop_the_next(settings: Settings) -> None:
    settings.ensure_home()
    foreign = settings.journal_dir / "foreign"
    foreign.mkdir()
    (foreign / "000000.twj").write_bytes(b"something else entirely")
    Script().open(0).alive(0.1, 130).write(settings.journal_dir / "good")
    with Lake.open(settings) as lake:
        assert recover(settings, lake) == ["good"]


def test_a_recovery_that_is_cut_short_is_made_up_for_by_the_next(settings: Settings) -> None:
    """Stopped after the first recording, and within the second: that one is left unsealed, and no row is missing."""
    settings.ensure_home()
    for number, name in enumerate(("first", "second")):
        script = Script().open(0).alive(0.1, 130).print(30.0, tid=number)
        script.write(settings.journal_dir / name)
    looks = iter([False, False, False])
    with Lake.open(settings) as lake:
        assert recover(settings, lake, is_over=lambda: next(looks, True)) == ["first"]
        assert not (settings.journal_dir / "second" / SEALED).exists()
        assert recover(settings, lake) == ["second"]
        assert lake.query("SELECT count(*) AS n FROM trades")["n"][0].as_py() == 2


async def test_a_task_that_is_cancelled_ends_after_the_work_in_its_thread() -> None:
    began, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        may_end.wait(10.0)
        has_ended.set()

    task = asyncio.create_task(run_in_thread(work))
    await asyncio.to_thread(began.wait, 10.0)
    task.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done(), "it waits"
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert has_ended.is_set()


def test_a_zeroed_tail_is_one_damage(tmp_path: Path) -> None:
    folder = Script().open(0).write(tmp_path / "r")
    with (folder / "000000.twj").open("ab") as handle:
        handle.write(bytes(1 << 16))
    damages: list[object] = []
    list(read_journal(folder, on_damage=damages.append))
    assert len(damages) == 1


@pytest.mark.parametrize("stamp", ["-5", "1757015216", "17570152166738780000", str(1 << 63)])
def test_a_capture_with_impossible_stamps_is_refused_at_once(
    settings: Settings, tmp_path: Path, stamp: str
) -> None:
    file = tmp_path / "odd.txt"
    file.write_text(f'{stamp} {{"channel":"pong"}}\n' * 30)
    with (
        Lake.open(settings) as lake,
        pytest.raises(CaptureError, match=r"holds no frame.*is no receipt time"),
    ):
        replay(file, settings, lake)


def test_a_recording_cut_within_its_first_bar_loses_no_print(settings: Settings) -> None:
    first = Script().open(5).alive(5.1, 40).print(20).print(30).stop(40)
    second = Script().open(45).alive(45.1, 130).print(50).stop(130)
    second.records = [
        r for r in second.records if r.recv_ns > first.sorted()[-1].recv_ns or r.kind is RecordKind.STARTED
    ]
    for record_number, record in enumerate(second.records):
        if record.kind is RecordKind.STARTED:
            second.records[record_number] = type(record)(
                record.frame, first.sorted()[-1].recv_ns + 1, record.kind, record.connection, record.body
            )
    with Lake.open(settings) as lake:
        for name, script in (("a", first), ("b", second)):
            for n, record in enumerate(script.records):  # tids count from one in each script
                script.records[n] = type(record)(
                    record.frame,
                    record.recv_ns,
                    record.kind,
                    record.connection,
                    record.body.replace(b'"tid": ', b'"tid": ' + (b"9" if name == "b" else b"1")),
                )
            replay(script.write(settings.journal_dir / name), settings, lake)
        row = lake.query("SELECT trades, status FROM bars_latest ORDER BY ts_open LIMIT 1").to_pylist()[0]
    assert row["trades"] == 3


def test_a_catalog_password_is_never_said(tmp_path: Path) -> None:
    for catalog in (
        "postgres:dbname=x host=127.0.0.1 port=9 password=hunter2",
        "postgres:postgresql://u:hunter2@127.0.0.1:9/x",
    ):
        wanted = load_settings(overrides={"home": tmp_path, "lake.catalog": catalog}, environ={})
        with pytest.raises(Exception, match="cannot be opened") as caught:
            Lake.open(wanted)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
