"""Refused prints: a bar that lacks one is neither quiet nor plainly printed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from ingest.coverage.refusals import PRINTS_REFUSED
from ingest.journal.captures import read_capture
from ingest.journal.records import Record, RecordKind
from ingest.pipeline.processor import Pipeline
from ingest.replay.replay import replay
from ingest.venues.hyperliquid import messages as wire
from ingest.venues.hyperliquid.refused_frames import RefusedPrint, refused_prints
from storage.clock import NS
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.conftest import recorded
from tests.ingest.pipeline.mutations import mutate_once
from tests.ingest.pipeline.scripts import START_NS, Script, latest, run, take_batches

BTC, ETH = "hyperliquid|perp|BTC", "hyperliquid|perp|ETH"
FINE = load_settings(overrides={"bars.widths": "1m,5s"}, environ={})
# A seed does not shrink to a shorter recording.
LAW = examples(deadline=None, max_examples=15, phases=(Phase.explicit, Phase.reuse, Phase.generate))


def two_coins(*, until_s: int = 190) -> Script:
    """Quotes of two coins every three seconds on one socket, and a print of each every ten."""
    script = Script(("BTC", "ETH")).open(0, 0, "BTC", "ETH")
    for coin in ("BTC", "ETH"):
        script.alive(0.6, until_s, coin=coin, every_s=3.0)
        for at_s in range(5, until_s, 10):
            script.print(at_s + 0.5, coin=coin)
    return script


def trades(items: Any) -> bytes:
    return json.dumps({"channel": "trades", "data": items}).encode()


def statuses(rows: dict[str, Any], instrument: str = BTC) -> list[tuple[str, str]]:
    bars = latest(rows["bars"], instrument)
    return [(bars[n]["status"], bars[n]["cause"]) for n in sorted(bars)]


PRINTED, REFUSED = ("printed", ""), ("blind", PRINTS_REFUSED)
PRINT: dict[str, Any] = {
    "coin": "BTC",
    "side": "B",
    "px": "100",
    "sz": "1",
    "time": Script.venue_ms(70),
    "tid": 99,
}
WHOLE = trades([PRINT, PRINT | {"tid": 100}])


@pytest.mark.parametrize(
    ("frame", "is_btc_alone"),
    [
        pytest.param(trades([PRINT | {"px": "-1"}]), True, id="price"),
        pytest.param(trades([PRINT | {"px": "nan"}]), True, id="not a number"),
        pytest.param(trades([PRINT | {"sz": "0"}]), True, id="size"),
        pytest.param(trades([PRINT | {"px": None}]), True, id="type"),
        pytest.param(trades([PRINT | {"tid": 1 << 63}]), True, id="tid"),
        pytest.param(trades([PRINT | {"time": 0}]), True, id="no time"),
        pytest.param(trades([PRINT | {"time": 1_767_571_270}]), True, id="seconds"),
        pytest.param(trades([PRINT | {"time": Script.venue_ms(90_000)}]), True, id="tomorrow"),
        pytest.param(trades([PRINT | {"coin": None}]), False, id="no coin"),
        pytest.param(trades([PRINT | {"coin": "FOO"}]), False, id="unknown coin"),
        pytest.param(trades([PRINT, PRINT | {"coin": 7}]), True, id="one coin of two prints"),
        pytest.param(trades(None), False, id="no prints"),
        pytest.param(trades({"coin": "BTC"}), True, id="no list"),
        pytest.param(WHOLE[:-30], True, id="cut"),
        pytest.param(WHOLE[:30], False, id="cut before the coin"),
        pytest.param(WHOLE[30:], False, id="cut before the channel"),
        pytest.param(WHOLE.replace(b'"px"', b'"px'), True, id="no JSON"),
        pytest.param(WHOLE.replace(b"channel", b"chennel"), True, id="no channel"),
        pytest.param(WHOLE.replace(b"trades", b"tredes"), True, id="unknown channel"),
        pytest.param(WHOLE.replace(b"trades", b"bbo"), True, id="prints of another channel"),
        pytest.param(b"<html>502</html>", False, id="a page"),
        pytest.param(b"", False, id="nothing"),
    ],
)
def test_a_bar_with_a_refused_print_is_blind_for_every_coin_that_it_may_be_of(
    frame: bytes, is_btc_alone: bool
) -> None:
    _, rows = run(two_coins().frame(70.5, frame))
    assert statuses(rows) == [PRINTED, REFUSED, PRINTED]
    assert statuses(rows, ETH) == [PRINTED, PRINTED if is_btc_alone else REFUSED, PRINTED]
    assert len(rows["quarantine"]) == 1
    gaps = {row["instrument"] for row in rows["coverage"] if row["cause"] == PRINTS_REFUSED}
    assert gaps == ({BTC} if is_btc_alone else {BTC, ETH})


@pytest.mark.parametrize(
    "frame",
    [
        b'{"channel":"bbo","data":{"coin":"BTC","time":',
        b'{"channel":"bbo","data":{"coin":"BTC","time":"x","bbo":[null,null]}}',
        b'{"channel":"l2Book","data":{"coin":"BTC","levels":[[{"px":"1","sz":"1","n":1}]]}}',
        b'{"channel":"activeAssetCtx","data":{"coin":"BTC","ctx":{"oraclePx":"0.0"}}}',
        b'{"channel":"spotAssetCtxs","data":[{"coin":"BTC","prevDayPx":"x"}]}',
        b'{"channel":"weather","data":1}',
        b'{"chennel":"bbo","data":{"coin":"BTC","time":1,"bbo":[null,null]}}',
    ],
)
def test_a_refused_frame_of_another_channel_does_not_touch_trades(frame: bytes) -> None:
    _, rows = run(two_coins().frame(70.5, frame))
    assert len(rows["quarantine"]) == 1
    assert statuses(rows) == statuses(rows, ETH) == [PRINTED] * 3


def test_a_frame_without_a_readable_time_may_be_of_any_bar_since_the_newest_print() -> None:
    script = Script().open(0).alive(0.1, 250).print(50.5).frame(130.5, WHOLE[:-30]).print(200)
    assert statuses(run(script)[1]) == [REFUSED] * 3 + [PRINTED]


def test_prints_of_which_some_are_refused_keep_the_others() -> None:
    script = two_coins().frame(70.5, trades([PRINT, PRINT | {"tid": 100, "px": "0"}]))
    bar = latest(run(script)[1]["bars"])[1]
    assert (bar["status"], bar["cause"], bar["trades"]) == (*REFUSED, 7)


def test_a_conflicting_print_is_refused_on_one_socket_and_on_two() -> None:
    for connection in (0, 1):
        script = two_coins().open(0, 1, "BTC").frame(70.5, trades([PRINT]))
        script.frame(70.6, trades([PRINT | {"px": "101"}]), connection)
        assert statuses(run(script)[1]) == [PRINTED, REFUSED, PRINTED]


def test_a_print_on_a_socket_that_is_not_open_is_missing() -> None:
    assert statuses(run(two_coins().frame(70.5, trades([PRINT]), 7))[1]) == [PRINTED, REFUSED, PRINTED]


# Repairs.


def resent(*changes: dict[str, Any]) -> Script:
    """A print of 70 s is refused; at 100 s the socket is renewed, and the venue resends the prints since 65 s."""
    script = Script().open(0).alive(0.1, 100).print(5.5).print(15.5)
    known = [script.a_print(65.0), script.a_print(69.0)]
    script.prints(69.5, known).frame(70.5, trades([PRINT | {"px": "x"}])).close(100).open(101, 1)
    script.prints(101.2, [*known, *(PRINT | change for change in changes)], 1)
    return script.alive(101.3, 190, connection=1)


def test_a_resent_batch_that_holds_the_print_repairs_its_bar() -> None:
    bars = latest(run(resent({}))[1]["bars"])
    assert (bars[1]["status"], bars[1]["repaired"], bars[1]["trades"]) == ("printed", True, 3)


@pytest.mark.parametrize("change", [{"px": "0"}, {"time": 0}])
def test_a_resent_batch_in_which_it_is_refused_again_repairs_nothing(change: dict[str, Any]) -> None:
    assert statuses(run(resent({"tid": 100}, change))[1])[1] == REFUSED


def test_a_resent_batch_that_cannot_be_decoded_is_no_evidence_and_neither_is_the_next_message() -> None:
    script = Script().open(0).alive(0.1, 90).print(5.5).print(65.5).close(90).open(95, 1)
    script.frame(95.2, WHOLE[:-30], 1).print(96.5, event_s=64.0, connection=1).alive(96, 190, connection=1)
    pipeline, rows = run(script)
    assert latest(rows["bars"])[1]["status"] == "blind"
    assert not any(row["bridged"] for row in rows["coverage"])
    assert {"type": "recentTrades", "coin": "BTC"} in pipeline.repairs.due_requests(START_NS + 96 * NS)


def candle(**changes: Any) -> dict[str, Any]:
    made = {"s": "BTC", "i": "1m", "o": "100", "c": "100", "h": "100", "l": "100", "v": "6", "n": 6}
    return made | {"t": Script.venue_ms(60), "T": Script.venue_ms(120) - 1} | changes


@pytest.mark.parametrize(
    ("changes", "status"),
    [({}, "printed"), ({"n": 7}, "blind"), ({"v": "7"}, "blind"), ({"h": "101"}, "blind")],
)
def test_a_candle_repairs_the_bar_only_if_every_figure_agrees(changes: dict[str, Any], status: str) -> None:
    """A refused print may be the other version of one that we have: equal counts are not enough."""
    script = two_coins(until_s=310).frame(70.5, trades([PRINT | {"px": "x"}]))
    req = {
        "coin": "BTC",
        "interval": "1m",
        "startTime": Script.venue_ms(60),
        "endTime": Script.venue_ms(120) - 1,
    }
    script.answer(245, {"type": "candleSnapshot", "req": req}, [candle(**changes)])
    bar = latest(run(script)[1]["bars"])[1]
    assert (bar["status"], bar["repaired"]) == (status, status == "printed")


def test_a_print_refused_after_the_candle_agreed_counts_again() -> None:
    script = two_coins(until_s=310).frame(70.5, trades([PRINT | {"px": "x"}]))
    req = {
        "coin": "BTC",
        "interval": "1m",
        "startTime": Script.venue_ms(60),
        "endTime": Script.venue_ms(120) - 1,
    }
    script.answer(245, {"type": "candleSnapshot", "req": req}, [candle()])
    script.frame(250, trades([PRINT | {"time": Script.venue_ms(80), "px": "x"}]))
    pipeline, _ = run(script)
    assert pipeline.state.ledger.refused.has(BTC, START_NS + 60 * NS, START_NS + 120 * NS)


def test_an_unusable_print_among_the_newest_trades_proves_nothing_and_refutes_nothing() -> None:
    script = Script().open(0).alive(0.1, 70).print(5.5).print(65.5, tid=500).close(70).open(80, 1)
    known = script.a_print(65.0, tid=500)
    script.prints(80.2, [script.a_print(79.0)], 1).alive(80.3, 130, connection=1)
    answer = [PRINT | {"px": "0"}, script.a_print(79.0), known]
    script.answer(82, {"type": "recentTrades", "coin": "BTC"}, answer)
    assert statuses(run(script)[1]) == [PRINTED, ("blind", "connection lost")]


# The ledger.


def test_refusals_that_follow_each_other_are_one_gap() -> None:
    """A venue that changes its messages makes one interval that grows, and not a row a print."""
    script = Script().open(0).alive(0.1, 250).print(3.5)
    for tid, at_s in enumerate(range(10, 250)):
        script.frame(
            at_s + 0.6, trades([PRINT | {"time": Script.venue_ms(at_s + 0.2), "px": None, "tid": tid}])
        )
    _, rows = run(script)
    gaps = [row for row in rows["coverage"] if row["cause"] == PRINTS_REFUSED]
    assert len({row["ts_from"] for row in gaps}) == 1
    assert len(gaps) <= 5, "one revision at each publishing instant"
    assert statuses(rows) == [REFUSED] * 4


def test_a_restart_remembers_what_was_refused(settings: Settings) -> None:
    """The bar that was open when the recorder stopped lacks the print, although both of its halves were watched."""
    whole = two_coins(until_s=150).frame(70.5, trades([PRINT | {"px": "x"}]))
    first = [r for r in whole.records if r.recv_ns < START_NS + 90 * NS]
    second = [r for r in whole.records if r.recv_ns >= START_NS + 90 * NS]
    before, after = Script(("BTC", "ETH")), Script(("BTC", "ETH"))
    before.records, after.records = (
        first,
        [dataclasses.replace(first[0], recv_ns=START_NS + 90 * NS), *second],
    )
    before.stop(89.9)
    known = [json.loads(r.body)["data"] for r in first if b'"trades", "data"' in r.body]
    items = [i for data in known for i in data if i["px"] != "x" and i["time"] > Script.venue_ms(72)]
    after.open(90.01, 0, "BTC", "ETH")
    for coin in ("BTC", "ETH"):
        after.prints(90.02, [item for item in items if item["coin"] == coin])
    with Lake.open(settings) as lake:
        for name, script in (("a", before), ("b", after)):
            replay(script.write(settings.journal_dir / name), settings, lake)
        rows = lake.query(
            "SELECT instrument, status, cause, epoch_us(ts_open) AS at FROM bars_latest ORDER BY ALL"
        ).to_pylist()
    minute = {row["instrument"]: row for row in rows if row["at"] == (START_NS + 60 * NS) // 1_000}
    assert (minute[BTC]["status"], minute[BTC]["cause"]) == REFUSED
    assert minute[ETH]["cause"] != PRINTS_REFUSED


# The law.


def law_script(chance: random.Random, *, is_capture: bool) -> Script:
    script = Script(() if is_capture else ("BTC", "ETH"))
    if not is_capture:
        script.open(0, 0, "BTC", "ETH")
    for coin in ("BTC", "ETH"):
        script.alive(0.1, 136, coin=coin, every_s=4.0)
        at_s = 0.5
        while at_s < 125:
            count = chance.choice((1, 1, 2, 3))
            items = [
                script.a_print(at_s - 0.4, coin=coin, px=f"{chance.randrange(90, 110)}") for _ in range(count)
            ]
            script.prints(at_s, items)
            at_s = round(at_s + chance.choice((0.3, 2.0, 6.0, 11.0)), 1)
    return script


@pytest.mark.parametrize("is_capture", [False, True], ids=["live", "capture"])
@LAW
@given(seed=st.integers(0, 1 << 40))
def test_a_bar_whose_print_was_corrupted_is_neither_quiet_nor_plainly_printed(
    is_capture: bool, seed: int
) -> None:
    """Unless what came is a valid message all the same, of other values, another print or another channel."""
    chance = random.Random(seed)
    script = law_script(chance, is_capture=is_capture)
    places = [n for n, record in enumerate(script.records) if b'"channel": "trades", "data"' in record.body]
    at = chance.choice(places)
    whole = script.records[at].body
    broken = mutate_once(whole, chance, [record.body for record in script.records])
    script.records[at] = dataclasses.replace(script.records[at], body=broken)
    _, rows = run(script, FINE, is_capture=is_capture)
    check_law(rows, whole, broken)


@pytest.mark.parametrize("runs", [4, pytest.param(200, marks=pytest.mark.drill)])
def test_the_law_holds_in_a_real_capture(runs: int) -> None:
    read = itertools.islice(
        read_capture(recorded("hyperliquid/ws_20250904_4coins.ndjson.gz")), 21_000, 24_000
    )
    records = [Record(n, recv_ns, RecordKind.FRAME, 0, body) for n, (recv_ns, body) in enumerate(read)]
    places = [n for n, record in enumerate(records) if b'"channel":"trades"' in record.body]
    chance, checked = random.Random(runs), 0
    for _ in range(runs):
        at = chance.choice(places)
        whole = records[at].body
        broken = mutate_once(whole, chance, [records[n].body for n in places[:50]])
        pipeline = Pipeline("made", FINE, is_capture=True)
        take_batches(
            pipeline, [*records[:at], dataclasses.replace(records[at], body=broken), *records[at + 1 :]]
        )
        pipeline.stop(records[-1].recv_ns, "end of capture")
        checked += check_law(
            {name: table.to_pylist() for name, table in pipeline.drain().items()}, whole, broken
        )
    assert checked


def check_law(rows: dict[str, Any], whole: bytes, broken: bytes) -> int:
    """Check the last revision of every bar that lacks a print of a refused frame; return their number."""
    if not [row for row in rows.get("quarantine", ()) if row["raw"] == broken]:
        return 0
    stored = {
        (
            row["instrument"].split("|")[2],
            round(row["ts_event"].timestamp() * 1_000),
            row["tid"],
            row["price"],
        )
        for row in rows["trades"]
    }
    last = {
        (row["instrument"].split("|")[2], row["width"], round(row["ts_open"].timestamp() * 1_000)): row[
            "status"
        ]
        for row in sorted(rows["bars"], key=lambda row: row["revision"])
    }
    message = wire.decode(whole)
    assert isinstance(message, wire.Trades)
    lost = [item for item in message.data if (item.coin, item.time, item.tid, item.px) not in stored]
    bars = {(i.coin, width, i.time // ms * ms) for i in lost for width, ms in (("1m", 60_000), ("5s", 5_000))}
    wrong = {bar: last[bar] for bar in bars & last.keys() if last[bar] != "blind"}
    assert not wrong, broken
    return len(bars & last.keys())


@pytest.mark.parametrize(
    ("frame", "held"),
    [
        (b'{"channel":"trades","data":[{"coin":"A","px":"1","time":"5"},{"px":"1","sz":"2"}]}',
         [("A", 5), ("A", None)]),
        (b'{"channel":"trades","data":[{"coin":"A","px":"1","sz":"2"},{"coin":"B","px":"1","time":true}]}',
         [("A", None), ("B", None)]),
        (b'{"recv_ns":"x","msg":{"channel":"trades","data":[{"coin":"A","px":"1","time":5.0}]}}', [("A", 5)]),
        (b'1757015216673878000x {"channel":"trades","data":[{"coin":"A","px":"1"', [("A", None)]),
        (b'{"channel":"trades","data":[{"coin":"A"},{"coin":"B"', [(None, None)]),
        (b"[1, 2]", [(None, None)]),
        (b"7", [(None, None)]),
        (b'{"channel":"pong","x":' + b'{"a":' * 100_000, []),
    ],
)  # fmt: skip
def test_what_a_refused_frame_may_have_held(frame: bytes, held: list[tuple[str | None, int | None]]) -> None:
    assert list(refused_prints(frame)) == [RefusedPrint(coin, time_ms) for coin, time_ms in held]


def test_the_law_is_not_empty() -> None:
    """Most corrupted frames are refused, and every kind of record is in the recordings of the law."""
    chance = random.Random(3)
    script = law_script(chance, is_capture=False)
    bodies = [r.body for r in script.records if r.kind is RecordKind.FRAME and b'"trades", "data"' in r.body]
    refused = 0
    for body in bodies * 5:
        try:
            wire.decode(mutate_once(body, chance, bodies))
        except Exception:
            refused += 1
    assert refused > len(bodies) * 5 // 2
