"""Bulk loads: the rows of a commit, registered files, and upserts where the table has rows."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st

from storage.clock import DAY_NS
from storage.contracts.tables import BARS, CONTRACTS, TRADES
from storage.errors import ContractError, LakeError
from storage.lake import bulk_load as module
from storage.lake.bulk_load import load, write_batch
from storage.lake.integrity import verify
from storage.lake.lake import Lake
from storage.lake.maintenance import compact, expire, remove_freed
from storage.lake.snapshots import pin, rows_hash
from storage.settings import Settings, load_settings
from tests.storage.lake.lakes import filled
from tests.storage.rows import UNSTAMPED, bar, batch, funding, trade
from tests.storage.servers import BUCKET, postgres, s3

NOW_NS: Final = time.time_ns()
LATER_NS: Final = NOW_NS + 30 * DAY_NS


def bars(first: int, last: int, name: str = "BTC", **changes: Any) -> pa.Table:
    return BARS.rows([bar(i, instrument=f"hyperliquid|perp|{name}", **changes) for i in range(first, last)])


def cut(rows: pa.Table, size: int) -> Iterator[pa.Table]:
    return (rows.slice(start, size) for start in range(0, rows.num_rows, size))


def rows_of(lake: Lake, name: str, at: int | None = None) -> list[dict[str, Any]]:
    """Return a table's rows in the order of its key, without their stamps."""
    found = lake.query(
        f"SELECT {UNSTAMPED} FROM {name} ORDER BY {', '.join(CONTRACTS[name].key)}",
        at=at,
    )
    return found.to_pylist()


def files(settings: Settings, kind: str) -> list[Path]:
    return sorted((settings.lake_dir / "data").rglob(f"{kind}-*.parquet"))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small pieces, so that a few rows are a long stream."""
    monkeypatch.setattr(module, "PIECE_ROWS", 8)


@pytest.mark.usefixtures("small_pieces")
def test_loaded_rows_are_those_of_a_commit(settings: Settings, tmp_path: Path) -> None:
    tables = {
        "bars": pa.concat_tables([bars(0, 30), bars(0, 30, "ETH", bid=99.0, quote_age_ms=3)]),
        "trades": TRADES.rows([trade(i, ts_event=i // 5) for i in range(40)]),
        "funding": CONTRACTS["funding"].rows([funding(i) for i in range(5)]),
    }
    other = load_settings(overrides={"home": tmp_path / "other"}, environ={})
    with Lake.open(settings) as one, Lake.open(other) as two:
        done = load(one, {name: cut(rows, 7) for name, rows in tables.items()}, batch_id="a", inputs={"x": 1})
        two.commit(tables, batch_id="a")
        assert done.rows == {"bars": 60, "trades": 40, "funding": 5}
        assert (done.is_new, done.refused, done.snapshot) == (True, 0, one.snapshot())
        for name in tables:
            assert rows_of(one, name) == rows_of(two, name)
        assert rows_hash(one, one.snapshot()) == rows_hash(two, two.snapshot())
        assert len(files(settings, "load")) == 3
        stamps = one.query("SELECT DISTINCT batch, ts_ingested_ns > 0 AS is_stamped FROM bars").to_pylist()
        assert stamps == [{"batch": "a", "is_stamped": True}]
        assert one.query("SELECT inputs FROM batches")["inputs"].to_pylist() == ['{"x": 1}']
        assert verify(one, now_ns=NOW_NS).findings == ()


def test_prints_of_one_instant_keep_their_order(settings: Settings) -> None:
    tids = [5, 3, 9, 1, 7]
    with Lake.open(settings) as lake:
        rows = [trade(9, ts_event=50), *(trade(tid, ts_event=20) for tid in tids)]
        load(lake, {"trades": [TRADES.rows(rows)]}, batch_id="a")
        assert lake.query("SELECT tid FROM trades")["tid"].to_pylist() == [*tids, 9]


def test_loading_a_batch_again_reads_nothing_and_does_nothing(settings: Settings) -> None:
    def never() -> Iterator[pa.Table]:
        yield from ()
        raise AssertionError("the stream was read")

    with Lake.open(settings) as lake:
        first = load(lake, {"bars": [bars(0, 3)]}, batch_id="a")
        again = load(lake, {"bars": never()}, batch_id="a")
        assert (again.is_new, again.rows, again.snapshot) == (False, {}, first.snapshot)
        assert lake.commit({"bars": bars(0, 3)}, batch_id="a").is_new is False
        assert len(rows_of(lake, "bars")) == 3


@pytest.mark.usefixtures("small_pieces")
def test_refused_rows_are_in_quarantine_with_their_reason(settings: Settings) -> None:
    rows = [bar(i, **({"low": 200.0} if i % 10 == 3 else {})) for i in range(40)]
    with Lake.open(settings) as lake:
        done = load(lake, {"bars": cut(BARS.rows(rows), 40)}, batch_id="a")
        assert (done.refused, done.rows) == (4, {"bars": 36, "quarantine": 4})
        held = lake.query("SELECT reason, source, raw FROM quarantine ORDER BY source").to_pylist()
        assert {item["reason"] for item in held} == {"low <= high"}
        assert len({item["source"] for item in held}) == 4
        assert all(b'"low": 200.0' in item["raw"] for item in held)
        assert verify(lake, now_ns=NOW_NS).findings == ()


def test_a_stream_with_too_many_rejected_rows_loads_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_REJECTED", 3)
    with Lake.open(settings) as lake:
        before = lake.snapshot()
        with pytest.raises(ContractError, match=r"bars refuses more than 3 rows of a; one: open is -1\.0"):
            load(lake, {"trades": [batch(1)["trades"]], "bars": [bars(0, 9, open=-1.0)]}, batch_id="a")
        assert (lake.snapshot(), files(settings, "load")) == (before, [])


def test_a_stream_that_fails_leaves_no_files(settings: Settings) -> None:
    def broken() -> Iterator[pa.Table]:
        yield bars(0, 3)
        raise ConnectionError("gone")

    with Lake.open(settings) as lake:
        before = lake.snapshot()
        with pytest.raises(ConnectionError):
            load(lake, {"trades": [batch(1)["trades"]], "bars": broken()}, batch_id="a")
        assert (lake.snapshot(), files(settings, "load")) == (before, [])
        assert load(lake, {"bars": [bars(0, 3)]}, batch_id="a").rows == {"bars": 3}


@pytest.mark.usefixtures("small_pieces")
def test_existing_rows_are_neither_duplicated_nor_changed(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        lake.commit({"bars": bars(10, 14), "trades": TRADES.rows([trade(2)])}, batch_id="live")
        before = {name: rows_of(lake, name) for name in ("bars", "trades")}
        rows = [bar(i, **({"close": 100.9} if i == 12 else {})) for i in range(40)]
        prints = TRADES.rows([trade(i, **({"price": 7.0} if i == 2 else {})) for i in range(4)])
        at = lake.snapshot()
        done = load(lake, {"bars": cut(BARS.rows(rows), 11), "trades": [prints]}, batch_id="a")
        # Three of the four minutes are equal and one is revised; the stored print has other values.
        assert done.rows == {"bars": 37, "trades": 3, "quarantine": 1}
        revised = lake.query("SELECT ts_open, revision, close FROM bars WHERE revision > 0").to_pylist()
        assert [(row["revision"], row["close"]) for row in revised] == [(1, 100.9)]
        assert lake.query("SELECT count(*) AS n FROM bars_latest")["n"][0].as_py() == 40
        reasons = lake.query("SELECT reason FROM quarantine")["reason"].to_pylist()
        assert reasons == ["trades holds the same key with other values"]
        assert {name: rows_of(lake, name, at) for name in before} == before
        # Of five pieces of eight minutes, only the one with minutes 10 to 13 went row by row.
        registered = lake.query(
            "SELECT count(DISTINCT filename) AS n FROM bars WHERE filename LIKE '%load-%'"
        )
        assert registered["n"][0].as_py() == len(files(settings, "load")) == 2
        assert verify(lake, now_ns=NOW_NS).findings == ()


@pytest.mark.usefixtures("small_pieces")
def test_rows_committed_during_a_load_are_respected(settings: Settings) -> None:
    """The transaction checks again for existing rows, since a recorder commits during a load."""
    with Lake.open(settings) as lake, Lake.open(settings) as recorder:

        def stream() -> Iterator[pa.Table]:
            yield bars(0, 8)
            recorder.commit({"bars": bars(5, 7)}, batch_id="live")

        assert load(lake, {"bars": stream()}, batch_id="a").rows == {"bars": 6}
        assert len(rows_of(lake, "bars")) == 8
        assert files(settings, "load") == []


@pytest.mark.usefixtures("small_pieces")
def test_a_registered_file_survives_compaction_and_expiry_and_reads_at_its_snapshots(
    settings: Settings,
) -> None:
    with Lake.open(settings) as lake:
        before = lake.commit(batch(100), batch_id="b").snapshot
        one = load(lake, {"bars": cut(bars(0, 20), 5)}, batch_id="one").snapshot
        two = load(lake, {"bars": cut(bars(20, 40), 5)}, batch_id="two").snapshot
        held = pin(lake, "one", now_ns=NOW_NS, snapshot=one)
        assert [len(rows_of(lake, "bars", at)) for at in (before, one, two)] == [1, 21, 41]
        loaded = files(settings, "load")
        assert len(loaded) == 2
        assert compact(lake, now_ns=NOW_NS)["bars"] == (3, 1)
        assert [len(rows_of(lake, "bars", at)) for at in (before, one, two)] == [1, 21, 41]
        expire(lake, now_ns=LATER_NS, dry_run=False)
        remove_freed(lake, now_ns=LATER_NS)
        assert [path.exists() for path in loaded] == [False, False]
        assert rows_hash(lake, one) == held.content
        assert len(rows_of(lake, "bars")) == 41
        assert verify(lake, now_ns=LATER_NS).findings == ()


def test_a_large_file_is_not_merged(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import storage.lake.maintenance

    with Lake.open(settings) as lake:
        load(lake, {"bars": [bars(0, 2_000)]}, batch_id="one")
        load(lake, {"bars": [bars(2_000, 4_000)]}, batch_id="two")
        smallest = min(path.stat().st_size for path in files(settings, "load"))
        monkeypatch.setattr(storage.lake.maintenance, "MERGE_BELOW_BYTES", smallest)
        assert "bars" not in compact(lake, now_ns=NOW_NS)
        assert len(files(settings, "load")) == 2


def _load_and_wait(home: Path, told: Connection) -> None:
    """Load, and wait for ever once the files are written and before they are registered."""

    class Waits(Lake):
        def once(self, *_: Any, **__: Any) -> Any:
            told.send("staged")
            told.recv()

    with Waits.open(load_settings(overrides={"home": home}, environ={})) as lake:
        load(lake, {"bars": [bars(50, 60)], "trades": [batch(90)["trades"]]}, batch_id="a")


def _fail_staged(home: Path) -> None:
    """Load, and fail once the files are written and before they are registered."""

    class Fails(Lake):
        def once(self, *_: Any, **__: Any) -> Any:
            raise _Killed

    settings = load_settings(overrides={"home": home}, environ={})
    with Fails.open(settings) as lake, pytest.raises(_Killed):
        load(lake, {"bars": [bars(50, 60)], "trades": [batch(90)["trades"]]}, batch_id="a")


class _Killed(BaseException):
    """The end of a process."""


def _kill_staged(home: Path) -> None:
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_load_and_wait, args=(home, theirs))
    process.start()
    assert mine.poll(120)
    process.kill()
    process.join()


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(_fail_staged, id="in this process"),
        pytest.param(_kill_staged, id="by a signal", marks=pytest.mark.drill),
    ],
)
def test_a_load_killed_before_registration_leaves_removable_orphans(
    settings: Settings, kill: Callable[[Path], None]
) -> None:
    with Lake.open(filled(settings)) as lake:
        before = lake.snapshot()
    kill(settings.home)
    left = [str(path.absolute()) for path in files(settings, "load")]
    assert len(left) == 2
    with Lake.open(settings) as lake:
        assert lake.snapshot() == before
        found = verify(lake, now_ns=LATER_NS, mend=True)
        assert sorted((item.kind, item.name) for item in found.findings) == [
            ("orphan", path) for path in left
        ]
        assert sorted(found.removed) == left
        assert files(settings, "load") == []
        again = load(lake, {"bars": [bars(50, 60)], "trades": [batch(90)["trades"]]}, batch_id="a")
        assert again.rows == {"bars": 10, "trades": 3}
        assert verify(lake, now_ns=LATER_NS).findings == ()


def test_a_home_with_loaded_files_may_be_moved_and_its_table_may_grow_a_column(
    settings: Settings, tmp_path: Path
) -> None:
    with Lake.open(settings) as lake:
        load(lake, {"bars": [bars(0, 5)]}, batch_id="a")
        before = rows_of(lake, "bars")
    settings.home.rename(tmp_path / "moved")
    with Lake.open(load_settings(overrides={"home": tmp_path / "moved"}, environ={})) as lake:
        assert rows_of(lake, "bars") == before
        lake._connection.execute("ALTER TABLE bars ADD COLUMN later VARCHAR DEFAULT 'not said'")
        assert rows_of(lake, "bars") == [row | {"later": "not said"} for row in before]
        assert len(before) == 5


def test_a_file_that_cannot_be_written_raises_and_nothing_is_loaded(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        before = lake.snapshot()
        place = settings.lake_dir / "data" / "main"
        place.mkdir(parents=True, exist_ok=True)
        (place / "bars").write_text("in the way")
        with pytest.raises(LakeError, match=r"main/bars/load-.* cannot be written: .*File exists"):
            load(lake, {"trades": [batch(1)["trades"]], "bars": [bars(0, 3)]}, batch_id="a")
        assert (lake.snapshot(), files(settings, "load")) == (before, [])


def test_a_table_without_a_time_in_its_key_cannot_be_loaded(settings: Settings) -> None:
    rows = CONTRACTS["batches"].empty()
    with Lake.open(settings) as lake, pytest.raises(ContractError, match="batches has no time in its key"):
        load(lake, {"batches": [rows]}, batch_id="a")


def test_a_large_in_memory_batch_is_loaded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BULK_ROWS", 10)
    with Lake.open(settings) as lake:
        for number, rows in enumerate((9, 10)):
            done = write_batch(
                lake, {"bars": bars(0, rows, f"C{number}")}, batch_id=f"{number}", inputs={"n": 1}
            )
            assert done.rows == {"bars": rows}
            assert len(files(settings, "load")) == number


def test_a_failed_registration_commits_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write = module._Staged.write

    def without_files(self: Any, *arguments: Any) -> Any:
        files(settings, "load")[0].unlink()
        return write(self, *arguments)

    with Lake.open(settings) as lake:
        before = lake.snapshot()
        monkeypatch.setattr(module._Staged, "write", without_files)
        with pytest.raises(LakeError, match="batch a could not be committed"):
            load(lake, {"trades": [batch(1)["trades"]], "bars": [bars(0, 3)]}, batch_id="a")
        assert lake.snapshot() == before
        assert rows_of(lake, "trades") == []


@pytest.mark.parametrize("catalog", ["sqlite", pytest.param("postgres", marks=pytest.mark.drill)])
def test_the_same_in_s3(tmp_path: Path, catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3(monkeypatch) as endpoint:
        values = {
            "home": tmp_path / "home",
            "lake.data": f"s3://{BUCKET}/{catalog}",
            "lake.s3_endpoint": endpoint,
        }
        if catalog == "sqlite":
            _load_in_s3(load_settings(overrides=values, environ={}), monkeypatch)
        else:
            with postgres(tmp_path / "pg") as address:
                _load_in_s3(
                    load_settings(overrides=values | {"lake.catalog": address}, environ={}), monkeypatch
                )


def _load_in_s3(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lake.open(settings) as lake:
        before = lake.commit(batch(0), batch_id="b0").snapshot
        done = load(lake, {"bars": [bars(1, 20)], "trades": [batch(5)["trades"]]}, batch_id="a")
        assert done.rows == {"bars": 19, "trades": 3}
        assert load(lake, {"bars": [bars(1, 25)]}, batch_id="over").rows == {"bars": 5}
        assert [len(rows_of(lake, "bars", at)) for at in (before, done.snapshot, None)] == [1, 20, 25]
        names = lake.query("SELECT file FROM glob(?)", [f"{lake.data}/**/load-*.parquet"])["file"].to_pylist()
        assert len(names) == 2  # the file of the load over existing rows was removed
        assert verify(lake, now_ns=NOW_NS).findings == ()
        with monkeypatch.context() as patch:
            patch.setattr(lake, "once", lambda *_, **__: (_ for _ in ()).throw(OSError("killed")))
            with pytest.raises(OSError, match="killed"):
                load(lake, {"bars": [bars(50, 60)]}, batch_id="c")
        found = verify(lake, now_ns=LATER_NS, mend=True)
        assert [item.kind for item in found.findings] == ["orphan"]
        assert len(found.removed) == 1
        assert verify(lake, now_ns=LATER_NS).findings == ()


@pytest.mark.usefixtures("small_pieces")
@budget(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    minutes=st.lists(st.tuples(st.sampled_from(["BTC", "ETH", "SOL"]), st.integers(0, 30)), max_size=60),
    size=st.integers(1, 20),
)
def test_volume_is_conserved_in_whatever_order_rows_come(
    shared_lake: Lake, minutes: list[tuple[str, int]], size: int
) -> None:
    """Each key is stored once, whatever the order and the duplicates."""
    number = next(_NUMBERS)
    rows = BARS.rows(
        [
            bar(minute, instrument=f"hyperliquid|perp|{name}{number}", volume=minute + 1.0)
            for name, minute in minutes
        ]
    )
    load(shared_lake, {"bars": cut(rows, size)}, batch_id=f"{number}")
    found = shared_lake.query(
        "SELECT count(*) AS n, count(DISTINCT (instrument, ts_open)) AS keys, coalesce(sum(volume), 0) AS volume"
        " FROM bars WHERE batch = ?",
        [f"{number}"],
    ).to_pylist()[0]
    distinct = set(minutes)
    assert found == {
        "n": len(distinct),
        "keys": len(distinct),
        "volume": float(sum(m + 1 for _, m in distinct)),
    }


_NUMBERS: Final = iter(range(1_000_000))


@pytest.fixture(scope="module")
def shared_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    home = tmp_path_factory.mktemp("load") / "home"
    with Lake.open(load_settings(overrides={"home": home}, environ={})) as lake:
        yield lake


def test_a_written_file_has_small_groups_in_order(settings: Settings) -> None:
    import pyarrow.parquet as pq

    rows = pa.concat_tables([bars(0, 100, name) for name in ("ETH", "BTC")])
    with Lake.open(settings) as lake:
        load(lake, {"bars": [rows]}, batch_id="a")
    (path,) = files(settings, "load")
    file = pq.ParquetFile(path)
    encodings = {c["path_in_schema"]: c["encodings"] for c in file.metadata.row_group(0).to_dict()["columns"]}
    assert "DELTA_BINARY_PACKED" in encodings["ts_open"]
    assert "RLE_DICTIONARY" in encodings["close"]
    assert {c["compression"] for c in file.metadata.row_group(0).to_dict()["columns"]} == {"ZSTD"}
    names = file.read(columns=["instrument"])["instrument"]
    assert pc.unique(names).to_pylist() == ["hyperliquid|perp|BTC", "hyperliquid|perp|ETH"]
