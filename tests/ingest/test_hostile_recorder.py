"""What would make a recorder lie, or lose rows, while it looks well?"""

from __future__ import annotations

from typing import Any

from storage.clock import NS
from tests.ingest.script import START_NS, Script, latest, run

BTC = "hyperliquid|perp|BTC"


def gaps(rows: dict[str, Any], channel: str = "trades") -> list[tuple[float, float]]:
    """Return, once each, from which to which second a channel was not watched."""
    found = {
        (row["ts_from"].timestamp() - START_NS / NS, row["ts_to"].timestamp() - START_NS / NS)
        for row in rows["coverage"]
        if row["kind"] == "gap" and row["channel"] == channel
    }
    return sorted((round(start, 3), round(to, 3)) for start, to in found)


def twins(*, lost_s: tuple[float, float], to_s: float = 300) -> Script:
    """Two sockets carry BTC's trades, and both carry ETH; what is of BTC does not come in a stretch."""
    script = Script(("BTC", "ETH"))
    for connection in (0, 1):
        script.open(0, connection, "BTC", "ETH").alive(0.1, to_s, coin="ETH", connection=connection)
        script.alive(0.2 + connection / 10, lost_s[0], connection=connection)
        script.alive(lost_s[1] + connection / 10, to_s, connection=connection)
    return script


def test_a_coin_that_dies_on_both_of_its_sockets_leaves_a_gap_that_is_told() -> None:
    _, rows = run(twins(lost_s=(70, 130)))
    assert latest(rows["bars"])[1]["status"] == latest(rows["bars"])[2]["status"] == "blind"
    told = [(start, to) for start, to in gaps(rows) if start < 70 and to >= 130]
    assert told, gaps(rows)
    assert latest(rows["bars"])[1]["cause"] == "silent stream"


def test_a_socket_that_reconnects_beside_a_dead_twin_leaves_a_gap_that_is_told() -> None:
    """One is half open from 50 s on and is given up at 75 s; the other one is away from 60 s to 65 s."""
    script = Script().open(0, 0).open(0, 1).alive(0.1, 50, connection=0).alive(0.2, 60, connection=1)
    script.close(60, 1).open(65, 2).alive(65.1, 200, connection=2).close(75, 0)
    _, rows = run(script)
    assert latest(rows["bars"])[0]["status"] == latest(rows["bars"])[1]["status"] == "blind"
    assert [(round(start), to) for start, to in gaps(rows)] == [(59, 65)]
    assert latest(rows["bars"])[1]["cause"] == "connection lost"


def test_a_gap_begins_where_the_last_of_two_sockets_was_proven() -> None:
    """The one that dies last was dead before: what the other one had proven stays proven."""
    script = Script().open(0, 0).open(0, 1).alive(0.1, 50, connection=0).alive(0.2, 100, connection=1)
    script.close(100, 1).close(105, 0).open(110, 2).alive(110.1, 200, connection=2)
    _, rows = run(script)
    assert [(round(start), to) for start, to in gaps(rows)] == [(99, 110)]
