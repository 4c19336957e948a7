"""Point-in-time reads by knowable time and by snapshot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from storage.contracts.tables import BARS, TRADES
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from tests.storage.lake.lakes import filled
from tests.storage.rows import bar, trade

Revision = tuple[int, int]
"""(minute of the bar, when the revision became knowable)"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    home = tmp_path_factory.mktemp("known") / "home"
    with Lake.open(filled(load_settings(overrides={"home": home}, environ={}))) as made:
        yield made


def answers(lake: Lake, name: str, until_ns: int, *, at: int | None = None) -> list[dict[int, float]]:
    """Return the volume of each bar as it was known at each instant up to one."""
    query = "SELECT ts_open, volume FROM bars_latest WHERE instrument = ? ORDER BY ts_open"
    return [
        {
            row["ts_open"].minute: row["volume"]
            for row in lake.query(query, [name], at=at, known_at_ns=known_ns).to_pylist()
        }
        for known_ns in range(until_ns + 1)
    ]


def expected(revisions: list[Revision], until_ns: int) -> list[dict[int, float]]:
    """Compute the same by a slow loop; volumes number the revisions."""
    return [
        {minute: float(n + 1) for n, (minute, known_ns) in enumerate(revisions) if known_ns <= now_ns}
        for now_ns in range(until_ns + 1)
    ]


@hypothesis_settings(
    deadline=None, max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=2, max_size=5),
    st.integers(1, 4),
    st.uuids(),
)
def test_a_later_revision_never_changes_an_earlier_answer(
    lake: Lake, revisions: list[Revision], cut: int, name: object
) -> None:
    """Revisions arrive in the order of their knowable times; those up to an instant determine its answer."""
    revisions = sorted(revisions, key=lambda item: item[1])
    instrument = f"hyperliquid|perp|{name}"
    numbers: dict[int, int] = {}
    rows = []
    for number, (minute, known_ns) in enumerate(revisions):
        numbers[minute] = numbers.get(minute, -1) + 1
        changes = {"revision": numbers[minute], "volume": number + 1.0, "instrument": instrument}
        rows.append(bar(minute, **changes, ts_knowable_ns=known_ns))
    first, later = rows[:cut], rows[cut:]
    held = lake.commit({"bars": BARS.rows(first)}, batch_id=f"{name}-first").snapshot
    until_ns = later[0]["ts_knowable_ns"] - 1 if later else 3
    before = answers(lake, instrument, until_ns)
    lake.commit({"bars": BARS.rows(later)}, batch_id=f"{name}-later")
    assert answers(lake, instrument, until_ns) == before == expected(revisions, until_ns)
    assert answers(lake, instrument, 3)[-1] == expected(revisions, 3)[-1]
    # At the older snapshot nothing of the later revisions is there, whenever they were knowable.
    assert answers(lake, instrument, 3, at=held)[-1] == expected(revisions[:cut], 3)[-1]


def test_backfilled_rows_are_knowable_before_the_snapshot_that_has_them(settings: Settings) -> None:
    with Lake.open(filled(settings)) as lake:
        held = lake.snapshot()
        lake.commit({"trades": TRADES.rows([trade(99, ts_knowable_ns=2)])}, batch_id="backfill")
        query = "SELECT tid FROM trades ORDER BY tid"
        assert lake.query(query, known_at_ns=2)["tid"].to_pylist() == [0, 1, 2, 99]
        assert lake.query(query, known_at_ns=2, at=held)["tid"].to_pylist() == [0, 1, 2]
        assert lake.query(query, known_at_ns=1, at=held)["tid"].to_pylist() == [0, 1]
        assert lake.query(query)["tid"].to_pylist() == [*range(9), 99]
