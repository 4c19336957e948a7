"""The id of a home."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.contracts.tables import BARS
from storage.errors import LakeError
from storage.lake.home_id import home_id, keep_home_id
from storage.lake.lake import Lake
from storage.settings import Settings
from tests.storage.rows import bar


def test_a_home_has_one_id_whoever_asks_first(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: home_id(tmp_path), range(16)))
    assert found == {home_id(tmp_path)}
    assert [path.name for path in tmp_path.iterdir()] == ["home.id"]
    other = tmp_path / "other"
    other.mkdir()
    assert home_id(other) not in found
    keep_home_id(tmp_path, other)
    assert home_id(other) in found


def test_a_row_of_bars_names_the_home_that_wrote_it(settings: Settings) -> None:
    with Lake.open(settings) as lake:
        lake.commit({"bars": BARS.rows([bar(0)])}, batch_id="a")
        assert lake.query("SELECT home FROM bars")["home"].to_pylist() == [home_id(settings.home)]


def test_a_damaged_id_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "home.id").write_text("a b")
    with pytest.raises(LakeError, match=r"holds .a b., and the id of a home is letters"):
        home_id(tmp_path)
