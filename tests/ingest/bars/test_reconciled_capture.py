"""Reconciliation of a recorded capture: complete bars are certified, and each single error refuses its bar.

The candles are told by a script of its own (`tests/drills/candles_of_capture.py`). An error is put into the capture
that we replay, while the candles stay those of what was printed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from ingest.backfill.candle_files import import_candles
from ingest.backfill.certify import CertifyResult, certify
from ingest.coverage.silence import SILENT_TRADES
from ingest.replay.replay import replay
from storage.clock import NS
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.conftest import recorded
from tests.drills.candles_of_capture import WIDTH_MS, candles_of, lines_of, write_candles

CAPTURE: Final = "hyperliquid/ws_20250904_4coins.ndjson.gz"
SOME_LINES: Final = 11_000
"""About five minutes."""

Bar = tuple[str, int]
"""(coin, open in ms)"""
Mistake = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
"""Takes the prints of one bar in order, and returns what stands in their place."""


def lines_with(lines: list[str], bar: Bar, mistake: Mistake) -> list[str]:
    """Return a capture with a mistake in one bar, wherever its prints are."""
    held: dict[tuple[int, int], dict[str, Any]] = {}
    for line in lines:
        for item in _prints(line):
            if _bar(item) == bar:
                held.setdefault((item["time"], item["tid"]), item)
    before = sorted(held.values(), key=lambda item: item["time"])
    after = {(old["time"], old["tid"]): new for old, new in zip(before, _made(mistake, before), strict=True)}
    changed = []
    for line in lines:
        if any(_bar(item) == bar for item in _prints(line)):
            frame = json.loads(line)
            frame["msg"]["data"] = [
                new for item in frame["msg"]["data"]
                for new in (after[item["time"], item["tid"]] if _bar(item) == bar else [item])
            ]  # fmt: skip
            changed.append(json.dumps(frame))
        else:
            changed.append(line)
    return changed


def _made(mistake: Mistake, before: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the replacement of each print: none, one or several."""
    made = mistake(copy.deepcopy(before))
    places: list[list[dict[str, Any]]] = [[] for _ in before]
    for item in made:
        places[item.pop("place")].append(item)
    return places


def _prints(line: str) -> list[dict[str, Any]]:
    if '"channel":"trades"' not in line and '"channel": "trades"' not in line:
        return []
    data: list[dict[str, Any]] = json.loads(line)["msg"]["data"]
    return data


def _bar(item: dict[str, Any]) -> Bar:
    return item["coin"], item["time"] // WIDTH_MS * WIDTH_MS


def _placed(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item | {"place": place} for place, item in enumerate(items)]


def a_trade_is_removed(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in _placed(items) if item["place"] != len(items) // 2]


def a_size_is_changed(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A change of one in the last place."""
    made = _placed(items)
    size = Decimal(made[len(items) // 2]["sz"])
    made[len(items) // 2]["sz"] = str(size + Decimal(1).scaleb(int(size.as_tuple().exponent)))
    return made


def a_close_is_swapped(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last print and the newest at another price are swapped; every sum and extreme stays the same."""
    made = _placed(items)
    other = max(n for n, item in enumerate(made) if item["px"] != made[-1]["px"])
    made[other]["px"], made[-1]["px"] = made[-1]["px"], made[other]["px"]
    made[other]["sz"], made[-1]["sz"] = made[-1]["sz"], made[other]["sz"]
    return made


def a_duplicate_is_kept(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same print counted twice."""
    made = _placed(items)
    again = made[len(items) // 2]
    return [*made, again | {"tid": again["tid"] + 1}]


def the_bar_is_shifted(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Its prints are in the bar before, which has prints of its own."""
    return [item | {"time": item["time"] - WIDTH_MS} for item in _placed(items)]


def sides_are_swapped(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item | {"side": "A" if item["side"] == "B" else "B"} for item in _placed(items)]


def certified(
    settings: Settings, lines: list[str], candles: list[dict[str, Any]], folder: Path
) -> CertifyResult:
    """Replay a capture, import candles, compare."""
    capture, file = folder / "capture.ndjson", folder / "candles.parquet"
    capture.write_text("".join(line if line.endswith("\n") else f"{line}\n" for line in lines))
    write_candles(candles, file)
    with Lake.open(settings) as lake:
        replay(capture, settings, lake)
        import_candles(file, settings, lake, width="1m")
        return certify(lake, settings)


def refused(lake: Lake) -> dict[Bar, set[str]]:
    """Return the differences, by bar."""
    found: dict[Bar, set[str]] = {}
    rows = lake.query("SELECT instrument, epoch_ms(ts_open) AS t, differs FROM discrepancies").to_pylist()
    for row in rows:
        found.setdefault((row["instrument"].rsplit("|", 1)[1], row["t"]), set()).add(row["differs"])
    return found


def whole_bars(lake: Lake) -> set[Bar]:
    rows = lake.query(
        "SELECT split_part(instrument, '|', 3) AS coin, epoch_ms(ts_open) AS t FROM bars_latest "
        "WHERE certified AND width = '1m'"
    ).to_pylist()
    return {(row["coin"], row["t"]) for row in rows}


def causes(lake: Lake, coin: str, open_ms: int) -> set[str]:
    """Return the causes of a recorded bar and of the two around it."""
    query = """SELECT arg_max(cause, revision) AS cause FROM bars
               WHERE width = '1m' AND origin = 'live' AND split_part(instrument, '|', 3) = ?
                 AND epoch_ms(ts_open) BETWEEN ? AND ? GROUP BY ts_open"""
    rows = lake.query(query, [coin, open_ms - WIDTH_MS, open_ms + WIDTH_MS]).to_pylist()
    assert len(rows) == 3
    return {row["cause"] for row in rows}


Tape = tuple[list[str], list[dict[str, Any]]]
"""Lines of a capture, and candles of the same prints."""


@pytest.fixture(scope="module")
def slice_of_tape() -> Tape:
    lines = lines_of(recorded(CAPTURE), SOME_LINES)
    return lines, candles_of(lines)


def bar_of(candles: list[dict[str, Any]], coin: str, at: int) -> Bar:
    return coin, [candle["t"] for candle in candles if candle["coin"] == coin][at]


SEEN: Final[dict[Mistake, set[str]]] = {
    a_trade_is_removed: {"volume", "trades"},
    a_size_is_changed: {"volume"},
    a_close_is_swapped: {"close"},
    a_duplicate_is_kept: {"volume", "trades"},
}
"""What at least differs."""
UNSEEN: Final = (sides_are_swapped, the_bar_is_shifted)
"""No candle sees the one; the other leaves a silence that is doubted, so that its bars are not compared at all."""


def check(done: dict[Bar, set[str]], mistakes: dict[Bar, Mistake]) -> None:
    """Check that exactly the bars with a mistake are refused, each for its mistake."""
    assert set(done) == {bar for bar, mistake in mistakes.items() if mistake not in UNSEEN}
    for bar, mistake in mistakes.items():
        if mistake not in UNSEEN:
            assert done[bar] >= SEEN[mistake], mistake
        if mistake in (a_size_is_changed, a_close_is_swapped):
            assert done[bar] == SEEN[mistake], mistake


def test_every_whole_bar_of_a_capture_is_certified(
    settings: Settings, tmp_path: Path, slice_of_tape: Tape
) -> None:
    done = certified(settings, *slice_of_tape, tmp_path)
    assert (done.compared, done.differ) == (done.certified, 0)
    for row in done.shares.to_pylist():
        assert row["certified"] + row["not_whole"] + row["no_candle"] == row["bars"]
        assert row["certified"] >= 3, row
    assert len(done.shares) == 4


def test_each_mistake_refuses_exactly_its_bar_and_a_second_run_adds_nothing(
    settings: Settings, tmp_path: Path, slice_of_tape: Tape
) -> None:
    """All at once, each in a bar of its own; `test_one_mistake_at_a_time` is the long form.

    Swapped sides are what no candle sees: docs/certified.md says where they are checked.
    """
    lines, candles = slice_of_tape
    mistakes: dict[Bar, Mistake] = {
        bar_of(candles, "ETH", 2): a_trade_is_removed,
        bar_of(candles, "SOL", 3): a_size_is_changed,
        bar_of(candles, "SOL", 2): a_close_is_swapped,
        bar_of(candles, "WLFI", 3): a_duplicate_is_kept,
        bar_of(candles, "BTC", 3): the_bar_is_shifted,
        bar_of(candles, "ETH", 1): sides_are_swapped,
    }
    for bar, mistake in mistakes.items():
        lines = lines_with(lines, bar, mistake)
    first = certified(settings, lines, candles, tmp_path)
    assert first.differ == 4

    names = ("bars", "discrepancies", "repairs")
    with Lake.open(settings) as lake:
        found, whole = refused(lake), whole_bars(lake)
        check(found, mistakes)
        assert not set(found) & whole
        assert bar_of(candles, "ETH", 1) in whole
        assert causes(lake, *bar_of(candles, "BTC", 3)) == {SILENT_TRADES}
        before = [lake.query(f"SELECT * FROM {name} ORDER BY ALL") for name in names]
        again = certify(lake, settings)
        after = [lake.query(f"SELECT * FROM {name} ORDER BY ALL") for name in names]
    assert before == after
    assert (again.certified, again.differ) == (0, 4)
    assert again.shares.equals(first.shares)
    rows = [row for row in before[0].to_pylist() if row["certified"]]
    assert len(rows) == first.certified > 5
    assert all(row["revision"] > 0 and row["origin"] == "live" for row in rows)
    assert all(row["ts_knowable_ns"] > row["ts_close"].timestamp() * NS + 3_600 * NS for row in rows)


@pytest.mark.drill
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mistake", [*SEEN, *UNSEEN])
def test_one_mistake_at_a_time(
    settings: Settings, tmp_path: Path, slice_of_tape: Tape, mistake: Mistake
) -> None:
    lines, candles = slice_of_tape
    for coin in ("BTC", "ETH", "SOL", "WLFI"):
        home, folder, bar = Settings(home=tmp_path / coin / "home"), tmp_path / coin, bar_of(candles, coin, 2)
        folder.mkdir()
        done = certified(home, lines_with(lines, bar, mistake), candles, folder)
        with Lake.open(home, read_only=True) as lake:
            found = refused(lake)
        check(found, {bar: mistake})
        assert done.certified >= 14 - len(found) - 3 * (mistake is the_bar_is_shifted)


@pytest.mark.drill
@pytest.mark.timeout(900)
def test_the_whole_capture(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(recorded(CAPTURE))
    done = certified(settings, lines, candles_of(lines), tmp_path)
    with capsys.disabled():
        for row in done.shares.to_pylist():
            print(f"\n{row}", end="")
    with Lake.open(settings, read_only=True) as lake:
        assert refused(lake) == {}
    assert all(row["share"] > 0.8 for row in done.shares.to_pylist())
