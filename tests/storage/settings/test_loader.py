"""Settings: precedence of sources, unknown keys, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.errors import SettingsError
from storage.settings import known_keys, load_settings


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "tickwalk.toml"
    file.write_text('home = "a"\n[bars]\ngrace_ms = 1000\n[record]\ncoins = ["BTC"]\n')
    environ = {"TICKWALK_BARS_GRACE_MS": "3000", "TICKWALK_RECORD_COINS": "ETH, SOL"}
    settings = load_settings(file, {"record.ping_s": 5}, environ=environ)
    assert settings.home == Path("a")
    assert settings.bars.grace_ms == 3000
    assert settings.record.coins == ("ETH", "SOL")
    assert settings.record.ping_s == 5.0


@pytest.mark.parametrize(
    ("toml", "environ", "overrides"),
    [
        ("[record]\ncoin = 'BTC'\n", {}, {}),
        ("", {"TICKWALK_RECORD_COIN": "BTC"}, {}),
        ("", {}, {"record.coin": "BTC"}),
    ],
)
def test_unknown_key_is_refused_and_the_nearest_named(
    tmp_path: Path, toml: str, environ: dict[str, str], overrides: dict[str, object]
) -> None:
    file = tmp_path / "tickwalk.toml"
    file.write_text(toml)
    with pytest.raises(SettingsError, match=r"(?i)record.coin.*nearest setting is .*record.coins"):
        load_settings(file, overrides, environ=environ)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("bars.grace_ms", "soon", "bars.grace_ms is 'soon'"),
        ("bars.widths", "7m", "does not divide a day"),
        ("record.clock", "moon", "record.clock is 'moon'"),
        ("training.device", "tpu", "training.device is 'tpu'"),
        ("airflow.parallelism", 32, "airflow.parallelism is 32"),
        ("record.coins", "", "record.coins is empty"),
    ],
)
def test_value_out_of_its_range_names_the_key(key: str, value: object, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        load_settings(overrides={key: value}, environ={})


def test_home_that_cannot_be_written_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"cannot be made.*set TICKWALK_HOME or --home"):
        load_settings(overrides={"home": tmp_path / "file"}, environ={}).ensure_home()


def test_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tickwalk.toml"
    file.write_text("[record\n")
    with pytest.raises(SettingsError, match=r"tickwalk.toml is not TOML"):
        load_settings(file, environ={})


def test_every_key_has_a_default_that_loads() -> None:
    defaults = {key: value for key, value in known_keys().items() if key != "home"}
    settings = load_settings(overrides=defaults, environ={})
    assert settings == load_settings(environ={})
