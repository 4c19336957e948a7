"""Coverage: a bar is quiet only where watching is proven, and blind elsewhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.coverage.causes import SILENT_STREAM
from ingest.coverage.ledger import TRADES, CoverageLedger
from storage.clock import MS_NS, NS
from tests.ingest.pipeline.scripts import START_NS, Script, latest, minute_of, run

BTC = "hyperliquid|perp|BTC"


def ledger() -> CoverageLedger:
    return CoverageLedger(
        "made", silence_ns=30 * NS, lag_ns=1_100 * MS_NS, horizon_ns=7_200 * NS, is_inferred=False
    )


def test_a_watched_bar_without_prints_is_quiet() -> None:
    _, rows = run(Script().open(0).known(0.05).alive(0.1, 190))
    bars = latest(rows["bars"])
    assert [(bars[m]["status"], bars[m]["observed_ms"]) for m in (1, 2)] == [("quiet", 60_000)] * 2
    assert bars[1]["open"] is None
    assert (bars[1]["volume"], bars[1]["trades"]) == (0.0, 0)


def test_the_bar_in_which_watching_began_is_blind() -> None:
    _, rows = run(Script().open(20).alive(20.1, 130))
    bar = latest(rows["bars"])[0]
    assert (bar["status"], bar["cause"], bar["observed_ms"]) == ("blind", "recorder down", 40_000)


def test_silence_of_a_coin_while_the_other_flows_is_not_quiet() -> None:
    script = Script(("BTC", "ETH")).open(0, 0, "BTC", "ETH")
    script.known(0.05).known(0.05, coin="ETH")
    script.alive(0.1, 310, coin="ETH").alive(0.1, 70).alive(250, 310)
    _, rows = run(script)
    bars = latest(rows["bars"])
    assert [bars[m]["status"] for m in range(5)] == ["quiet", "blind", "blind", "blind", "blind"]
    assert {bars[m]["cause"] for m in (1, 2, 3)} == {"silent stream"}
    assert all(bar["status"] == "quiet" for bar in latest(rows["bars"], "hyperliquid|perp|ETH").values())


def test_a_silent_stream_that_was_asked_for_again_was_lost_by_its_silence() -> None:
    """The watchdog ends and renews the subscription; the cause of the gap is the silence, not the end."""
    script = Script(("BTC", "ETH")).open(0, 0, "BTC", "ETH")
    script.alive(0.1, 250, coin="ETH").alive(0.1, 20).unsubscribe(100).subscribe(100.5).alive(190, 250)
    _, rows = run(script)
    bars = latest(rows["bars"])
    assert {bars[m]["cause"] for m in (0, 1, 2)} == {"silent stream"}
    ended = [
        row["cause"] for row in rows["coverage"] if row["kind"] == "watched" and row["instrument"] == BTC
    ]
    assert "unsubscribed" not in ended


def test_a_quiet_bar_published_at_the_start_of_a_silence_is_revised() -> None:
    """Twenty seconds of silence are allowed; after sixty, the bar is no longer proven."""
    script = Script(("BTC", "ETH")).open(0, 0, "BTC", "ETH").known(0.05)
    script.alive(0.1, 300, coin="ETH").alive(0.1, 45)
    _, rows = run(script)
    said = [row["status"] for row in rows["bars"] if row["instrument"] == BTC and row["ts_open"].minute == 0]
    assert said == ["quiet", "blind"]


def test_a_pong_proves_an_otherwise_silent_socket() -> None:
    script = Script().open(0).known(0.05).bbo(0.5)
    for at_s in range(1, 29):
        script.pong(at_s)
    script.bbo(29).pong(59.0).pong(61.5).bbo(40).clock(70)
    _, rows = run(script)
    assert latest(rows["bars"])[0]["status"] == "quiet"


def test_a_socket_that_is_silent_still_closes_its_bars() -> None:
    _, rows = run(Script().open(0).alive(0.1, 30).clock(200))
    bars = latest(rows["bars"])
    assert sorted(bars) == [0, 1, 2]
    assert {bars[m]["status"] for m in (0, 1, 2)} == {"blind"}


def test_resent_prints_that_overlap_bridge_a_hole() -> None:
    script = Script().open(0).alive(0.1, 70)
    known = script.a_print(60.0)
    script.prints(60.5, [known]).close(70)
    script.open(80, 1).prints(80.2, [known, script.a_print(75.0)], 1).alive(80.3, 130, connection=1)
    _, rows = run(script)
    bar = latest(rows["bars"])[1]
    assert (bar["status"], bar["repaired"], bar["trades"]) == ("printed", True, 2)
    assert bar["observed_ms"] == 48_600, "the hole is 68.6 s (proven) to 80 s (acknowledged)"
    gaps = [row for row in rows["coverage"] if row["kind"] == "gap" and row["channel"] == TRADES]
    assert [(row["bridged"], row["evidence"], row["revision"]) for row in gaps] == [
        (False, "socket", 0),
        (True, "overlap", 1),
    ]


def test_resent_prints_without_overlap_prove_nothing() -> None:
    script = Script().open(0).alive(0.1, 70).print(60.5)
    script.close(70, cause="pong missing for 10 s").open(80, 1)
    script.prints(80.2, [script.a_print(75.0)], 1).alive(80.3, 130, connection=1)
    _, rows = run(script)
    bar = latest(rows["bars"])[1]
    assert (bar["status"], bar["cause"], bar["repaired"]) == ("blind", "pong missing for 10 s", False)
    assert bar["trades"] == 2, "a blind bar keeps what was printed while we watched"


def test_resent_prints_that_reach_back_past_the_last_one_bridge_a_hole() -> None:
    """A known print may be missing from the venue's resent batch only if the batch begins after it."""
    script = Script().open(0).alive(0.1, 70)
    known = script.a_print(59.0)
    script.prints(60.5, [known, script.a_print(60.0)]).close(70).open(80, 1)
    script.prints(80.2, [known, script.a_print(75.0)], 1).alive(80.3, 130, connection=1)
    _, rows = run(script)
    assert latest(rows["bars"])[1]["repaired"]


def test_a_resent_print_that_an_open_stream_had_left_out_takes_back_what_was_watched() -> None:
    """Quotes continue, trades die at 20 s: at 80 s the stream is resubscribed, and resends a print of 50 s."""
    script = Script().open(0).alive(0.1, 130)
    first = script.a_print(20.0)
    script.prints(20.5, [first]).unsubscribe(80).subscribe(80.1)
    script.prints(80.2, [first, script.a_print(50.0), script.a_print(79.0)])
    _, rows = run(script)
    minutes = [row for row in rows["bars"] if minute_of(row) == 0]
    assert [(row["status"], row["trades"], row["repaired"]) for row in minutes] == [
        ("printed", 1, False),  # as a live system had to take it
        ("blind", 2, False),
    ]
    assert minutes[1]["observed_ms"] == 20_000
    gap = next(row for row in rows["coverage"] if row["cause"] == SILENT_STREAM)
    assert (gap["channel"], gap["kind"], gap["bridged"]) == (TRADES, "gap", False)
    script = Script().open(0).alive(0.1, 130)
    known = [script.a_print(19.0), script.a_print(20.0)]
    script.prints(20.5, known).unsubscribe(80).subscribe(80.1)
    script.prints(80.2, [*known, script.a_print(50.0)])
    _, rows = run(script)
    assert latest(rows["bars"])[0]["repaired"], (
        "the batch reaches back past the last print that was delivered"
    )


def test_a_twin_socket_leaves_no_hole_when_one_dies() -> None:
    script = Script().open(0).known(0.05).open(0, 1).alive(0.1, 130).alive(0.2, 130, connection=1).close(70)
    script.records = [r for r in script.records if not (r.connection == 0 and r.recv_ns > START_NS + 70 * NS)]
    _, rows = run(script)
    assert latest(rows["bars"])[1]["status"] == "quiet"
    assert not [row for row in rows["coverage"] if row["kind"] == "gap"]


def test_an_empty_book_on_both_sides_is_a_halt_and_not_quiet() -> None:
    script = Script().open(0).alive(0.1, 60).bbo(58, None)
    script.records = [r for r in script.records if not START_NS + 58 * NS < r.recv_ns < START_NS + 60 * NS]
    for at_s in range(60, 130):
        script.bbo(at_s, None)
    _, rows = run(script)
    assert latest(rows["bars"])[1]["status"] == "halted"


@given(
    st.lists(
        st.tuples(st.integers(0, 120), st.sampled_from(["open", "close", "hear", "pong"]), st.integers(0, 2)),
        max_size=40,
    )
)
def test_nobody_watches_more_than_a_whole_bar(events: list[tuple[int, str, int]]) -> None:
    """For any events in any order: 0 <= observed <= width, and equal to the width exactly when complete."""
    book = ledger()
    for second, what, number in sorted(events, key=lambda event: event[0]):
        now_ns = START_NS + second * NS
        is_open = number in book.open_connections()
        if what == "open" and not is_open:
            book.open(number)
            book.subscribe(number, TRADES, BTC, now_ns)
        elif what == "close" and is_open:
            book.close(number, now_ns, "lost")
        elif what == "hear" and is_open:
            book.record_message(number, BTC, now_ns - NS // 2, now_ns)
        elif what == "pong" and is_open:
            book.pong(number, now_ns)
    for minute in (0, 1):
        opened = START_NS + minute * 60 * NS
        watch = book.watch(BTC, opened, opened + 60 * NS, START_NS + 122 * NS)
        assert 0 <= watch.observed_ns <= 60 * NS
        assert watch.is_complete == (watch.observed_ns == 60 * NS)
        assert bool(watch.cause) == (not watch.is_complete and not watch.is_repaired)
