"""Reading a home: the command's answers, past states, clear errors, and nothing written."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import torch

import tickwalk
from serving import cli
from serving.cli.context import print_table
from storage.clock import ManualTime
from storage.contracts.tables import BARS
from storage.errors import GateError, InstrumentError, LakeError, RangeError, SettingsError
from storage.lake.lake import Lake
from storage.lake.locks import LakeLocks
from storage.lake.snapshots import pin
from storage.settings import Settings, load_settings
from tests.paths import ROOT
from tests.storage.rows import BTC, bar
from training.night.registry import VersionEvent, append_events

LATE_NS = 600 * 10**9
"""When the first bar's revision became knowable: ten minutes after the epoch."""


@pytest.fixture
def home(shared_home: Path) -> Iterator[tickwalk.HomeReader]:
    with tickwalk.open(shared_home) as reader:
        yield reader


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of three bars of BTC, the first of which was revised later, in a second commit."""
    home = tmp_path_factory.mktemp("template") / "home"
    with Lake.open(load_settings(overrides={"home": home}, environ={}), clock=ManualTime(1)) as lake:
        lake.commit({"bars": BARS.rows([bar(0), bar(1), bar(2)])}, batch_id="a")
        pin(lake, "before", now_ns=2)
        revised = bar(0, revision=1, close=99.5, ts_knowable_ns=LATE_NS)
        lake.commit({"bars": BARS.rows([revised])}, batch_id="b")
    return home


@pytest.fixture
def small(template: Path, settings: Settings) -> Settings:
    """A copy of the home of three bars, which a test may write to."""
    shutil.copytree(template, settings.home)
    return settings


def closes(result: tickwalk.QueryResult) -> list[float]:
    return [float(value) for value in result.arrow()["close"].to_pylist()]


# Bars and past states.


@pytest.mark.parametrize("known_at", [None, "2026-02-04T01:02:03Z"])
def test_bars_equal_the_answer_of_the_command(
    shared_home: Path, home: tickwalk.HomeReader, known_at: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    query = f"SELECT * FROM bars_latest WHERE instrument = '{BTC}' AND width = '5m' ORDER BY ts_open"
    options = ["--known-at", known_at] if known_at else []
    cli.main(["--home", str(shared_home), "sql", query, "--format", "json", *options])
    expected = capsys.readouterr().out
    bars = home.bars("BTC", "5m", known_at=known_at)
    print_table(bars.arrow(), "json")
    assert capsys.readouterr().out == expected
    assert len(bars) == (36 if known_at else 320)


def test_bars_show_the_revision_that_was_known(small: Settings) -> None:
    with tickwalk.open(small.home) as home:
        assert closes(home.bars("BTC")) == [99.5, 100.5, 100.5]
        assert closes(home.bars("BTC", known_at=LATE_NS)) == [99.5, 100.5, 100.5]
        assert closes(home.bars("BTC", known_at=LATE_NS - 1)) == [100.5, 100.5, 100.5]
        assert len(home.bars("BTC", known_at=0)) == 0


def test_bounds_are_right_open(small: Settings) -> None:
    with tickwalk.open(small.home) as home:
        first, second = datetime.fromtimestamp(60, UTC), datetime.fromtimestamp(120, UTC)
        opens = home.bars("BTC", since=first, until=second).arrow()["ts_open"].to_pylist()
        assert opens == [first]
        assert len(home.bars(BTC, "1m", since=60 * 10**9)) == 2
        assert len(home.bars(BTC, until="1970-01-01T00:01:00+00:00")) == 1
        assert len(home.bars(BTC, since="2026-01-01")) == 0
        with pytest.raises(RangeError, match=r"until .* is not after since"):
            home.bars(BTC, since=second, until=first)


def test_a_past_state_is_named_by_snapshot_pin_or_instant(small: Settings) -> None:
    with tickwalk.open(small.home) as home:
        rows = home.sql(
            "SELECT snapshot_id AS id, snapshot_time AS at FROM lake.snapshots() ORDER BY id"
        ).pl()
        pinned, made = rows.row(-3)[0], rows.row(-3)[1]  # then the pin's own commit, and the revision's
        for at in (pinned, str(pinned), "before", made, made.isoformat()):
            assert closes(home.bars("BTC", at=at)) == [100.5, 100.5, 100.5]
            assert home.sql("SELECT count(*) AS n FROM bars", at=at).pl().item() == 3
        assert home.sql("SELECT count(*) AS n FROM bars", at=datetime.now(UTC)).pl().item() == 4
        with pytest.raises(LakeError, match=r"'later' is neither a pin nor a time \(pins are: before"):
            home.sql("FROM bars", at="later")
        with pytest.raises(LakeError, match="no snapshot that still exists was made by 2001-01-01"):
            home.bars("BTC", at="2001-01-01")
        with pytest.raises(LakeError, match="snapshot 99 does not exist"):
            home.bars("BTC", at=99)


def test_a_reader_sees_what_is_committed_later(small: Settings) -> None:
    with tickwalk.open(small.home) as home:
        assert len(home.bars("BTC")) == 3
        with Lake.open(small) as lake:
            lake.commit({"bars": BARS.rows([bar(3)])}, batch_id="c")
        assert len(home.bars("BTC")) == 4


def test_a_query_takes_values(home: tickwalk.HomeReader) -> None:
    rows = home.sql("SELECT count(*) AS n FROM candles WHERE instrument = ?", [BTC])
    assert rows.pl().item() == 320


# Mistakes.


def test_an_instrument_is_resolved_or_refused(small: Settings) -> None:
    with Lake.open(small) as lake:
        lake.commit({"bars": BARS.rows([bar(0, instrument="gaiaex|perp|BTC")])}, batch_id="other")
    with tickwalk.open(small.home) as home:
        with pytest.raises(
            InstrumentError, match=r"2 instruments: gaiaex\|perp\|BTC, hyperliquid\|perp\|BTC"
        ):
            home.bars("BTC")
        assert len(home.bars("gaiaex|perp|BTC")) == 1
        assert len(home.bars("BTC", at="before")) == 3
        for read in (home.bars, lambda name: home.panel(instruments=[name])):
            with pytest.raises(InstrumentError, match="the lake holds no 1m bar of 'btc'"):
                read("btc")
        with pytest.raises(InstrumentError, match="no 5m bar of 'BTC'"):
            home.bars("BTC", "5m")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (datetime(2026, 1, 31), "since=2026-01-31T00:00:00 has no time zone.*UTC"),  # noqa: DTZ001
        ("yesterday", "'yesterday' is not a date or time"),
        (1.5, "since is a float, which is no instant"),
        (True, "since is a bool, which is no instant"),
    ],
)
def test_what_is_no_instant_is_refused(home: tickwalk.HomeReader, value: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        home.bars("BTC", "5m", since=value)  # type: ignore[arg-type]


def test_any_time_zone_names_the_same_instant(home: tickwalk.HomeReader) -> None:
    there = datetime(2026, 2, 4, 3, tzinfo=timezone(timedelta(hours=3)))
    one, other = home.bars("BTC", "5m", since=there), home.bars("BTC", "5m", since="2026-02-04")
    assert one.arrow().equals(other.arrow())
    assert 0 < len(one) < 320


def test_a_wrong_width_set_query_or_night_is_named(home: tickwalk.HomeReader) -> None:
    with pytest.raises(SettingsError, match="bar width '5x'"):
        home.bars("BTC", "5x")
    with pytest.raises(SettingsError, match="feature set 'lives' does not exist"):
        home.features("lives", "5m")
    with pytest.raises(LakeError, match="the query failed"):
        home.sql("SELECT nothing FROM nowhere")
    with pytest.raises(LakeError, match=r"the query failed: .*read-only"):
        home.sql("DELETE FROM trades")
    with pytest.raises(GateError, match="no night is called 'x'"):
        home.night("x")
    with pytest.raises(RangeError, match="no 5m bar"):
        home.panel("5m", since="2030-01-01")
    with pytest.raises(RangeError, match="no 5m bar"):
        home.features("live", "5m", since="2030-01-01")


def test_where_there_is_no_home_or_no_lake_the_error_says_so(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(tickwalk.TickwalkError, match=r"there is no home at .*none.*TICKWALK_HOME"):
        tickwalk.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(tickwalk.TickwalkError, match=r"there is no lake in .*tickwalk record"):
        tickwalk.open(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_lake_whose_locks_cannot_be_opened_is_refused(small: Settings) -> None:
    (small.lake_dir / "door.lock").unlink()
    (small.lake_dir / "door.lock").mkdir()
    with pytest.raises(LakeError, match=r"a lock file of the lake cannot be opened: .*door\.lock.*writable"):
        tickwalk.open(small.home)


def test_the_home_is_the_setting_where_none_is_named(
    shared_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TICKWALK_HOME", str(shared_home))
    monkeypatch.setenv("TICKWALK_BARS_WIDTHS", "5m")
    with tickwalk.open() as home:
        assert home.path == shared_home
        assert len(home.bars("BTC")) == 320
    with pytest.raises(LakeError, match="was closed"):
        home.sql("SHOW TABLES")
    home.close()
    assert "closed" in repr(home)


# Panels and features.


def test_a_panel_has_the_bars_of_a_range(home: tickwalk.HomeReader) -> None:
    panel = home.panel("5m", instruments=["ETH", "BTC"], since="2026-02-04", until="2026-02-04T06:00:00Z")
    assert panel.instruments == (BTC, "hyperliquid|perp|ETH")
    assert panel.status.shape == (2, 72)
    bars = home.bars("BTC", "5m", since="2026-02-04", until="2026-02-04T06:00:00Z")
    assert panel.column("close")[0].tolist() == closes(bars)


def test_an_instant_of_a_panel_is_an_instant(home: tickwalk.HomeReader) -> None:
    panel = home.panel("5m")
    since, until = panel.ts_open_ns[2], panel.ts_open_ns[5]
    assert home.panel("5m", since=since, until=until).ts_open_ns.tolist() == panel.ts_open_ns[2:5].tolist()


def test_features_do_not_depend_on_where_they_begin(home: tickwalk.HomeReader) -> None:
    whole = home.features("candles", "5m")
    assert whole.values.shape == (2, 320, len(whole.names))
    assert 0.2 < float(whole.mask.float().mean()) < 1.0
    for first in (1, 300):
        part = home.features("candles", "5m", since=int(whole.ts_open_ns[first]))
        assert part.ts_open_ns.tolist() == whole.ts_open_ns[first:].tolist()
        assert torch.equal(part.values, whole.values[:, first:])
        assert torch.equal(part.mask, whole.mask[:, first:])


def test_features_take_the_instruments_whose_bars_the_panel_serves(small: Settings) -> None:
    """One with bars in the look-back only, and one whose bar was knowable too late, are left out."""
    old, late = "hyperliquid|perp|OLD", "hyperliquid|perp|LATE"
    rows = [bar(0, instrument=old), bar(1, instrument=late, ts_knowable_ns=LATE_NS)]
    with Lake.open(small, clock=ManualTime(2)) as lake:
        lake.commit({"bars": BARS.rows(rows)}, batch_id="others")
    with tickwalk.open(small.home) as home:
        assert home.features("candles", "1m").instruments == (BTC, old)
        assert home.features("candles", "1m", since=60 * 10**9).instruments == (BTC,)
        assert home.panel("1m", since=60 * 10**9).instruments == (BTC,)


# Models.


def test_nights_and_champion(home: tickwalk.HomeReader) -> None:
    (row,) = home.nights().pl().to_dicts()
    assert (row["recipe"], row["outcome"], row["instruments"], row["leaks"]) == ("tiny", "refused", 2, 0)
    details = home.night(row["night"])
    assert details.figures["test"]["ic"]["value"] == row["ic"]
    assert [rule["name"] for rule in details.rules][:2] == ["leaks", "feature proof"]
    assert details.manifest["snapshot"] == row["snapshot"]
    assert set(details.models) == {"mlp", "ridge"}
    assert details.report is not None
    assert details.report.read_text(encoding="utf-8").startswith("<!doctype html>")
    champion = home.champion()
    assert champion is not None
    assert (champion.version, champion.night) == (row["version"], row["night"])
    assert home.champion("tiny") == champion
    assert home.champion("other") is None


def test_several_champions_are_told_apart_by_recipe(small: Settings) -> None:
    def event(recipe: str) -> VersionEvent:
        return VersionEvent(f"m-{recipe}", "champion", recipe, "m", f"{recipe}-1", "made", {}, {}, "x", 5)

    with tickwalk.open(small.home) as home:
        assert home.champion() is None
        assert len(home.nights()) == 0
        with Lake.open(small) as lake:
            append_events(lake, [event("one"), event("two")], batch_id="champions")
        with pytest.raises(GateError, match=r"2 recipes have a champion: one, two.*recipe="):
            home.champion()
        assert home.champion("two") == event("two")


# Laws of the whole interface.


def digests(folder: Path) -> dict[str, str]:
    """Return a hash of every file but the index and log that SQLite keeps beside a catalog that is open."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def test_reading_changes_nothing_and_takes_no_commit_lock(
    shared_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a reader took the commit lock")

    before = digests(shared_home)
    assert len(before) > 80
    monkeypatch.setattr(LakeLocks, "exclusive", refuse)
    with tickwalk.open(shared_home) as home:
        home.sql("FROM trades", known_at="2026-02-04", at="fixture").df()
        home.bars("BTC", "5m").pl()
        home.panel("5m")
        home.features("live", "5m", since="2026-02-04")
        home.night(home.nights().arrow()["night"][0].as_py())
        home.champion()
        assert digests(shared_home) == before
    assert digests(shared_home) == before
    log = shared_home / "lake" / "catalog.sqlite-wal"
    assert not log.exists() or log.stat().st_size == 0


def test_a_commit_does_not_wait_for_a_reader(small: Settings) -> None:
    with Lake.open(small) as lake, tickwalk.open(small.home) as home:
        home.bars("BTC")
        with LakeLocks(small.lake_dir, catalog="sqlite:").reading():  # as in the middle of a query
            done = lake.commit({"bars": BARS.rows([bar(3)])}, batch_id="c", patience_s=0.0)
        assert done.is_new


def test_importing_loads_nothing_heavy() -> None:
    program = (
        "import sys, tickwalk; dir(tickwalk); tickwalk.__version__; tickwalk.TickwalkError; "
        "print([name for name in ('torch', 'pyarrow', 'pandera', 'duckdb', 'polars', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tickwalk' has no attribute 'Opener'"):
        tickwalk.Opener  # noqa: B018
    assert set(dir(tickwalk)) >= {"open", "HomeReader", "QueryResult", "__version__"}
