"""Loader of settings: `tickwalk.toml`, then `TICKWALK_*` variables, then flags; later sources win.

An unknown key in any source is an error that names the nearest known key.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_type_hints

import msgspec

from storage.errors import SettingsError
from storage.settings.recording import BarSettings, GaiaexSettings, RecordSettings
from storage.settings.services import (
    AirflowSettings,
    AlertSettings,
    ArchiveSettings,
    GateSettings,
    KeepSettings,
    LakeSettings,
    MetricsSettings,
    TrainingSettings,
)

CONFIG_NAME: Final = "tickwalk.toml"
# Read before the settings: the path of the file, the format of log lines, and the folder of the user's project.
_ENVIRONMENT_ONLY: Final = frozenset({"TICKWALK_CONFIG", "TICKWALK_LOG", "TICKWALK_PROJECT"})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a tickwalk home."""

    home: Path = Path("var")
    """Folder for everything that tickwalk writes."""
    record: RecordSettings = field(default_factory=RecordSettings)
    gaiaex: GaiaexSettings = field(default_factory=GaiaexSettings)
    bars: BarSettings = field(default_factory=BarSettings)
    lake: LakeSettings = field(default_factory=LakeSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    airflow: AirflowSettings = field(default_factory=AirflowSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    alert: AlertSettings = field(default_factory=AlertSettings)
    keep: KeepSettings = field(default_factory=KeepSettings)
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)

    @property
    def journal_dir(self) -> Path:
        """Journal segments, in one folder per recording."""
        return self.home / "journal"

    @property
    def recorder_dir(self) -> Path:
        """Heartbeat files, one per recording, rewritten each second while it runs."""
        return self.home / "recorder"

    @property
    def lake_dir(self) -> Path:
        """Catalog and Parquet files of the tables."""
        return self.home / "lake"

    @property
    def archive_dir(self) -> Path:
        """Downloaded objects of archives, with a manifest for each day."""
        return self.home / "archive"

    @property
    def models_dir(self) -> Path:
        """Nights, checkpoints and registered model versions."""
        return self.home / "models"

    @property
    def features_dir(self) -> Path:
        """Cached features by day, and cached panels; all of it can be rebuilt."""
        return self.home / "features"

    @property
    def reports_dir(self) -> Path:
        """Reports, one page per night."""
        return self.home / "reports"

    def report_path(self, night: str) -> Path:
        """Return where a night's page lies, or would lie."""
        return self.reports_dir / f"{night}.html"

    def ensure_home(self) -> None:
        """Create the home's folders.

        Raises:
            SettingsError: the home cannot be written.
        """
        for folder in (self.journal_dir, self.lake_dir, self.models_dir, self.reports_dir):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(
                    f"the data folder {folder} cannot be made: {error.strerror}",
                    hint="set TICKWALK_HOME or --home to a folder that you may write",
                ) from error
            if not os.access(folder, os.W_OK):
                raise SettingsError(
                    f"the data folder {folder} cannot be written by this user",
                    hint="set TICKWALK_HOME or --home to a folder that you may write",
                )


REDACTED: Final = "(set, not shown)"


def shown(settings: Settings, key: str) -> object:
    """Return the value of a key for display; a secret is replaced by whether it is set, or shown in part."""
    section, _, name = key.rpartition(".")
    holder = getattr(settings, section) if section else settings
    value = getattr(holder, name)
    secrecy = next(item.metadata.get("secret") for item in dataclasses.fields(holder) if item.name == name)
    if callable(secrecy):
        return secrecy(value)
    return REDACTED if secrecy and value else value


_SECTIONS: Final[dict[str, Any]] = {
    name: hint for name, hint in get_type_hints(Settings).items() if dataclasses.is_dataclass(hint)
}


def known_keys() -> dict[str, Any]:
    """Return every key as written in flags (`section.name`, or `home`) with its default."""
    keys: dict[str, Any] = {"home": Settings().home}
    for section, kind in _SECTIONS.items():
        for item in dataclasses.fields(kind):
            keys[f"{section}.{item.name}"] = getattr(kind(), item.name)
    return keys


def load_settings(
    path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Load the settings.

    Args:
        path: file to read (default: `TICKWALK_CONFIG`, or `tickwalk.toml` if it exists).
        overrides: flags, such as `{"record.coins": ("BTC",)}`; `None` values are ignored.
        environ: variables (default: those of the process).

    Raises:
        SettingsError: a key does not exist, or a value is invalid.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, object] = {}
    values |= _from_file(path, environ)
    values |= _from_environment(environ)
    values |= {key: value for key, value in (overrides or {}).items() if value is not None}
    return _build(values)


def _from_file(path: Path | None, environ: Mapping[str, str]) -> dict[str, object]:
    named = path or (Path(environ["TICKWALK_CONFIG"]) if "TICKWALK_CONFIG" in environ else None)
    path = named or Path(CONFIG_NAME)
    if named is None and not path.exists():
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from error
    flat: dict[str, object] = {}
    for key, value in document.items():
        if key in _SECTIONS and isinstance(value, dict):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            flat[key] = value
    return flat


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    by_variable = {"TICKWALK_" + key.upper().replace(".", "_"): key for key in known_keys()}
    flat: dict[str, object] = {}
    for variable, value in environ.items():
        if not variable.startswith("TICKWALK_") or variable in _ENVIRONMENT_ONLY:
            continue
        if variable not in by_variable:
            raise SettingsError(
                f"environment variable {variable} is not a setting",
                hint=_nearest(variable, list(by_variable)),
            )
        flat[by_variable[variable]] = value
    return flat


def _build(values: Mapping[str, object]) -> Settings:
    known = known_keys()
    sections: dict[str, dict[str, object]] = {name: {} for name in _SECTIONS}
    home = Settings().home
    for key, value in values.items():
        if key not in known:
            raise SettingsError(f"setting {key!r} does not exist", hint=_nearest(key, list(known)))
        if key == "home":
            home = Path(str(value)).expanduser()
            continue
        section, name = key.split(".")
        sections[section][name] = _convert(key, value, get_type_hints(_SECTIONS[section])[name])
    built = {name: _SECTIONS[name](**items) for name, items in sections.items()}
    return Settings(home=home, **built)


def _convert(key: str, value: object, kind: Any) -> object:
    if isinstance(value, str) and kind == tuple[str, ...]:
        value = [item.strip() for item in value.split(",") if item.strip()]
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"setting {key} is {value!r}: {error}") from error


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"the nearest setting is {close[0]}; `tickwalk settings` lists them all"
