"""Quarantine: listing by reason, complete rows, and retry after a contract was corrected."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from storage.contracts import validation
from storage.contracts.tables import BARS, CONTRACTS, QUARANTINE, RECORDINGS, TRADES
from storage.errors import LakeError
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.lake.quarantine_retry import count_pending, find_row, list_kinds, retry
from storage.settings import Settings
from tests.storage.lake.lakes import filled
from tests.storage.rows import BTC, bar, trade

FRAME = b'{"channel":"trades","data":[]}'


def refuse_some(lake: Lake) -> None:
    """Quarantine two sizes that are too large, a price, a conflicting row, and a frame."""
    rows = [trade(20, size=2e15), trade(21, size=3e15), trade(22, price=-1.0), trade(1, price=7.0), trade(23)]
    frame = {"table_name": "trades", "reason": "tid is missing", "raw": FRAME, "source": "made:9"}
    frames = QUARANTINE.rows([frame | {"ts_knowable_ns": 9}])
    assert lake.commit({"trades": TRADES.rows(rows), "quarantine": frames}, batch_id="bad").refused == 4


def mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Correct the contract: allow larger trades."""
    columns = tuple(
        dataclasses.replace(c, high=1e18) if c.name == "size" else c for c in CONTRACTS["trades"].columns
    )
    monkeypatch.setitem(CONTRACTS, "trades", dataclasses.replace(TRADES, columns=columns))
    validation._pandas_schema.cache_clear()


def test_rows_valid_under_a_corrected_contract_are_committed_once_and_the_others_stay(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.open(filled(settings)) as lake:
        refuse_some(lake)
        kinds = {row["reason"]: row for row in list_kinds(lake).to_pylist()}
        large = kinds["size is ...: less_than_or_equal_to(1000000000000000.0)"]
        assert (large["rows"], large["retried"], len(kinds)) == (2, 0, 4)

        unchanged = retry(lake, now_ns=100)
        assert (unchanged.committed, sum(unchanged.left.values()), count_pending(lake)) == ({}, 5, 5)

        mend(monkeypatch)
        done = retry(lake, now_ns=101)
        assert done.committed == {"trades": 2}
        assert set(done.left) == {
            "trades: price is -1.0: greater_than(0.0)",
            "trades: trades holds the same key with other values",
            "trades: no row can be read from it: it is a frame; replay its recording",
        }
        held = lake.query("SELECT tid, size, ts_event FROM trades WHERE tid BETWEEN 20 AND 22 ORDER BY tid")
        assert held["size"].to_pylist() == [2e15, 3e15]
        assert [moment.microsecond for moment in held["ts_event"].to_pylist()] == [20_000, 21_000]

        again = retry(lake, now_ns=102)
        assert (again.committed, sum(again.left.values()), count_pending(lake)) == ({}, 3, 3)
        large = {row["reason"]: row for row in list_kinds(lake).to_pylist()}[large["reason"]]
        assert (large["rows"], large["retried"]) == (2, 2)
        assert verify(lake, now_ns=1).findings == ()
    validation._pandas_schema.cache_clear()


def test_a_row_is_shown_completely(settings: Settings) -> None:
    with Lake.open(filled(settings)) as lake:
        refuse_some(lake)
        kinds = {row["reason"]: row["example"] for row in list_kinds(lake, table="trades").to_pylist()}
        row = find_row(lake, kinds["tid is missing"])
        assert (row["raw"], row["source"]) == (FRAME, "made:9")
        assert json.loads(find_row(lake, kinds["price is ...: greater_than(0.0)"])["raw"])["price"] == -1.0
        with pytest.raises(
            LakeError, match=r"no row in quarantine has the id 'zz'.*tickwalk quarantine list"
        ):
            find_row(lake, "zz")
        with pytest.raises(LakeError, match="there is no table 'frames'"):
            retry(lake, now_ns=1, table="frames")


def test_an_accepted_bar_of_history_arrives_with_its_acceptance(settings: Settings) -> None:
    """Like any history: it is known from now on where a recording listed its instrument."""
    recording = {
        "recording": "monday", "home": "here", "venue": "hyperliquid", "instruments": f'["{BTC}"]',
        "ts_started_ns": 0, "ts_last_ns": 9 * 60 * 10**9, "ts_knowable_ns": 9,
    }  # fmt: skip
    rows = [
        bar(number, origin=origin, instrument=name)
        for number, (origin, name) in enumerate([("candle", BTC), ("live", BTC), ("candle", "other")])
    ]
    refused = [
        {
            "table_name": "bars",
            "reason": "made",
            "source": str(number),
            "ts_knowable_ns": 1,
            "raw": _json(row),
        }
        for number, row in enumerate(BARS.rows(rows).to_pylist())
    ]
    with Lake.open(settings) as lake:
        tables = {"recordings": RECORDINGS.rows([recording]), "quarantine": QUARANTINE.rows(refused)}
        lake.commit(tables, batch_id="made")
        now_ns = 10**15
        assert retry(lake, now_ns=now_ns).committed == {"bars": 3}
        found = lake.query("SELECT ts_knowable_ns AS ns FROM bars ORDER BY ts_open")["ns"].to_pylist()
    assert found == [now_ns, rows[1]["ts_knowable_ns"], rows[2]["ts_knowable_ns"]]


def _json(row: dict[str, Any]) -> bytes:
    return json.dumps(row, default=lambda moment: moment.isoformat()).encode()
