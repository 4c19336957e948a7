"""Chain liveness: a halted chain against a venue that is down."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ingest.coverage.chain_liveness import CHAIN_HALT, ChainLiveness
from ingest.coverage.ledger import CoverageLedger
from ingest.venues.hyperliquid.messages import ChainBlock
from storage.clock import MS_NS, NS
from tests.ingest.pipeline.scripts import START_NS, Script, latest, run

EXPLORER = 3
SCOPE = "hyperliquid|"


def watched(to_s: float, *, silent: tuple[float, float] = (0, 0)) -> Script:
    """A socket of BTC whose market stands still for a while, as both sockets answer pings every second."""
    script = Script().open(0).known(0.05).opened(0, EXPLORER, venue="chain", socket="explorer")
    at_s = 0.25
    while at_s < to_s:
        script.pong(at_s).pong(at_s, EXPLORER)
        if not silent[0] <= at_s < silent[1]:
            script.bbo(at_s + 0.5)
            blocks(script, at_s + 0.5, at_s)
        at_s += 1.0
    return script


def blocks(script: Script, at_s: float, *made_s: float) -> Script:
    items = [
        {"blockTime": Script.venue_ms(s), "height": 700_000 + int(s * 10), "hash": "0x", "numTxs": 1, "proposer": "0x"}
        for s in made_s
    ]  # fmt: skip
    return script.frame(at_s, json.dumps(items).encode(), EXPLORER)


def statuses(script: Script) -> dict[int, tuple[str, str]]:
    return {minute: (bar["status"], bar["cause"]) for minute, bar in latest(run(script)[1]["bars"]).items()}


def test_a_halt_beyond_ten_seconds_makes_its_bars_blind_and_says_why() -> None:
    said = statuses(watched(310, silent=(70, 200)))
    assert said == {
        0: ("quiet", ""),
        1: ("blind", CHAIN_HALT),
        2: ("blind", CHAIN_HALT),
        3: ("blind", CHAIN_HALT),
        4: ("quiet", ""),
    }


def test_a_halt_is_a_gap_from_the_last_block_to_the_first_after_it() -> None:
    _, rows = run(watched(310, silent=(70, 200)))
    halts = [row for row in rows["coverage"] if row["cause"] == CHAIN_HALT]
    assert [(row["instrument"], row["kind"], row["bridged"]) for row in halts] == [(SCOPE, "gap", False)]
    seconds = [row.timestamp() - START_NS / NS for row in (halts[0]["ts_from"], halts[0]["ts_to"])]
    assert seconds == [69.25, 200.25]


def test_ten_seconds_without_a_block_are_no_halt() -> None:
    assert set(statuses(watched(190, silent=(70, 79))).values()) == {("quiet", "")}


def test_without_a_pong_the_explorer_may_be_what_is_dead() -> None:
    script = (
        Script().open(0).known(0.05).opened(0, EXPLORER, venue="chain", socket="explorer").alive(0.25, 190)
    )
    for at_s in range(1, 60):
        blocks(script, at_s, at_s - 0.5)
    assert set(statuses(script).values()) == {("quiet", "")}


def test_an_explorer_that_is_lost_says_nothing() -> None:
    script = (
        Script().open(0).known(0.05).opened(0, EXPLORER, venue="chain", socket="explorer").alive(0.25, 190)
    )
    for at_s in range(1, 60):
        blocks(script, at_s, at_s - 0.5).pong(at_s, EXPLORER)
    script.close(60, EXPLORER)
    assert set(statuses(script).values()) == {("quiet", "")}


def test_losing_the_explorer_ends_the_halt_that_it_told_of() -> None:
    script = watched(100, silent=(70, 100)).close(100, EXPLORER).alive(100.25, 250)
    said = statuses(script)
    assert said[1] == ("blind", CHAIN_HALT)
    assert said[2] == said[3] == ("quiet", "")


def test_a_feed_that_is_down_while_the_chain_lives_is_told_so() -> None:
    script = watched(60).close(60).opened(119, 4).subscribe(119, 4)
    for n in range(60, 190):
        blocks(script, n + 0.5, n).pong(n + 0.6, EXPLORER)
        script.bbo(max(n, 119) + 0.7, connection=4)
    _, rows = run(script)
    gaps = {row["cause"] for row in rows["coverage"] if row["kind"] == "gap" and row["channel"] == "trades"}
    assert gaps == {"connection lost; chain alive"}
    assert latest(rows["bars"])[1]["cause"] == "connection lost; chain alive"


def test_a_feed_that_is_down_with_the_chain_is_not() -> None:
    script = Script().open(0).alive(0.25, 60).close(60).open(120, 1).alive(120.25, 190, connection=1)
    _, rows = run(script)
    assert latest(rows["bars"])[1]["cause"] == "connection lost"


def made(ledger: CoverageLedger | None = None) -> ChainLiveness:
    ledger = ledger or CoverageLedger(
        "made", silence_ns=30 * NS, lag_ns=0, horizon_ns=7_200 * NS, is_inferred=False
    )
    chain = ChainLiveness(ledger, SCOPE, silence_ns=10 * NS)
    chain.opened(EXPLORER, START_NS)
    return chain


def at(second: float) -> ChainBlock:
    return ChainBlock(START_NS // MS_NS + round(second * 1_000), round(second * 10))


def test_blocks_told_of_again_do_not_end_a_halt() -> None:
    ledger = CoverageLedger("made", silence_ns=30 * NS, lag_ns=0, horizon_ns=7_200 * NS, is_inferred=False)
    chain = made(ledger)
    chain.add_blocks([at(1), at(2)], START_NS + 3 * NS)
    chain.pong(START_NS + 14 * NS)
    chain.tick(START_NS + 15 * NS)
    assert ledger.is_stalled(SCOPE)
    chain.add_blocks([at(1), at(2)], START_NS + 16 * NS)
    assert ledger.is_stalled(SCOPE)
    chain.add_blocks([at(16)], START_NS + 17 * NS)
    assert not ledger.is_stalled(SCOPE)


def test_a_block_from_the_future_counts_as_the_present() -> None:
    """A corrupt time must not hide later halts, nor the coverage up to them."""
    chain = made()
    chain.add_blocks([at(1_000_000)], START_NS + 3 * NS)
    chain.add_blocks([at(5)], START_NS + 6 * NS)
    assert chain.was_alive(START_NS, START_NS + 8 * NS)


@given(st.lists(st.floats(0.0, 100.0), max_size=12), st.floats(0.0, 50.0), st.floats(0.0, 50.0))
def test_the_chain_was_alive_where_no_ten_seconds_lack_a_block(
    made_s: list[float], from_s: float, length_s: float
) -> None:
    chain = made()
    for second in sorted(made_s):
        chain.add_blocks([at(second)], START_NS + 200 * NS)
    from_ns, to_ns = START_NS + round(from_s * NS), START_NS + round((from_s + length_s) * NS)
    inside = sorted({at(s).block_time * MS_NS for s in made_s if from_ns < at(s).block_time * MS_NS < to_ns})
    steps = [b - a for a, b in zip([from_ns, *inside], [*inside, to_ns], strict=True)]
    assert chain.was_alive(from_ns, to_ns) == (bool(inside) and max(steps) < 10 * NS)
