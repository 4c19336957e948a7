"""Settings: from `tickwalk.toml`, then `TICKWALK_*` variables, then flags."""

from storage.settings.loader import (
    CONFIG_NAME,
    REDACTED,
    Settings,
    known_keys,
    load_settings,
    shown,
)

__all__ = ["CONFIG_NAME", "REDACTED", "Settings", "known_keys", "load_settings", "shown"]
