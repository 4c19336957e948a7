"""A finished night in seconds: a small lake of generated bars, and the real steps on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from storage.clock import NS, US_NS, ManualTime, parse_time_ns
from storage.contracts.tables import BARS, COVERAGE, DISCREPANCIES, FUNDING, QUARANTINE
from storage.lake.lake import Lake
from storage.settings import Settings, load_settings
from training.night.steps import build_panel, judge_night, open_night, plan_folds, train_fold

START_NS = parse_time_ns("2026-02-03T22:00:00Z")
STEPS = 660
WIDTH_NS = 60 * NS
HOSTILE = "<script>document.title='run'</script>"
COINS = ("BTC", "ETH", HOSTILE)
RECORDING = "hyperliquid-20260203T220000-1"

RECIPE = """
base = "demo"
name = "small"
feature_set = "candles"
window_bars = 8
controls = ["zero", "momentum", "ridge"]
challengers = ["lightgbm", "mlp"]
[label]
horizon_bars = 3
volatility_bars = 20
[folds]
n_folds = 2
unit = "hour"
test_units = 2
valid_units = 2
train_units = 2
embargo_bars = 6
[position]
hold_bars = 3
threshold = 0.0
[fit]
epochs = 3
"""


def make_night(home: Path, *, recording: str = RECORDING) -> tuple[Settings, str]:
    """Fill a lake and run a whole night on it; returns the settings and the night's id."""
    settings = load_settings(
        overrides={"home": home, "training.device": "cpu", "training.threads": 1}, environ={}
    )
    settings.ensure_home()
    with Lake.open(settings, clock=ManualTime(START_NS)) as lake:
        lake.commit(_tables(recording), batch_id="drawn", inputs={"seed": 7})
    recipe = home / "small.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    night = open_night(settings, recipe=str(recipe))
    build_panel(settings, night)
    for fold in plan_folds(settings, night):
        train_fold(settings, night, fold)
    judge_night(settings, night, clock=ManualTime(START_NS))
    return settings, night


def _tables(recording: str) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    bars, spans, funding = [], [], []
    for number, coin in enumerate(COINS):
        instrument = f"hyperliquid|perp|{coin}"
        price = 100.0 * np.exp(np.cumsum(rng.normal(0, 4e-4, STEPS)))
        for step in range(STEPS):
            if coin == "ETH" and 100 <= step < 104:
                continue  # nobody says
            bars.append(_bar(instrument, step, number, price, rng))
        spans += _spans(recording, instrument, is_bridged=coin == "ETH")
        funding += [
            {
                "instrument": instrument,
                "ts_event": (START_NS + hour * 3_600 * NS) // US_NS,
                "funding_rate": 1.25e-5,
                "interval_h": 1,
                "source": "drawn",
                "ts_knowable_ns": START_NS + hour * 3_600 * NS,
            }
            for hour in range(1, 12)
        ]
    refused = [
        {
            "table_name": "frames",
            "reason": f"no channel is called {HOSTILE}",
            "raw": b"{}",
            "source": f"{recording}:9",
            "ts_knowable_ns": START_NS + NS,
        }
    ]
    unlike = [
        {
            "instrument": f"hyperliquid|perp|{coin}",
            "width": "1m",
            "ts_open": (START_NS + step * WIDTH_NS) // US_NS,
            "revision": 0,
            "differs": figure,
            "ours": ours,
            "theirs": ours + 1.0,
            "checked": "T+1h",
            "ts_knowable_ns": START_NS + (step + 61) * WIDTH_NS,
        }
        for coin, step, figure, ours in (("ETH", 10, "trades", 3.0), ("ETH", 10, "volume", 2.5))
    ]
    return {
        "discrepancies": DISCREPANCIES.rows(unlike),
        "bars": BARS.rows(bars),
        "coverage": COVERAGE.rows(spans),
        "funding": FUNDING.rows(funding),
        "quarantine": QUARANTINE.rows(refused),
    }


def _bar(
    instrument: str, step: int, number: int, price: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    opens_ns = START_NS + step * WIDTH_NS
    is_blind = 300 <= step < 307 or (number == 2 and 400 <= step < 430)
    is_quiet = not is_blind and rng.random() < 0.1 * number
    bar: dict[str, Any] = {
        "instrument": instrument,
        "width": "1m",
        "ts_open": opens_ns // US_NS,
        "ts_close": (opens_ns + WIDTH_NS) // US_NS,
        "revision": 0,
        "status": "blind" if is_blind else "quiet" if is_quiet else "printed",
        "cause": ("connection lost" if step < 400 else "silent stream") if is_blind else "",
        "session": "always",
        "origin": "live",
        "observed_ms": 12_000 if is_blind else 60_000,
        "repaired": False,
        "certified": False,
        "trades_applicable": True,
        "trades": 0,
        "volume": 0.0,
        "notional": 0.0,
        "bid": float(price[step]) * 0.9999,
        "ask": float(price[step]) * 1.0001,
        "quote_age_ms": 100,
        "ts_knowable_ns": opens_ns + WIDTH_NS + 500_000_000,
        "ts_available_ns": opens_ns + WIDTH_NS + 500_000_000,
    }
    if bar["status"] == "printed":
        first, last = float(price[max(step - 1, 0)]), float(price[step])
        bar |= {"open": first, "close": last, "high": max(first, last), "low": min(first, last)}
        bar |= {"trades": 5, "volume": 3.0, "buy_volume": 1.5, "notional": 3.0 * last, "vwap": last}
    return bar


def _spans(recording: str, instrument: str, *, is_bridged: bool) -> list[dict[str, Any]]:
    cut, back = START_NS + 300 * WIDTH_NS + 12 * NS, START_NS + 307 * WIDTH_NS - NS
    stop = START_NS + STEPS * WIDTH_NS
    kept = {"journal": recording, "channel": "trades", "instrument": instrument, "evidence": "socket"}
    rows = [
        (0, START_NS, cut, "watched", "connection lost", 0, False),
        (1, cut, back, "gap", "connection lost", 0, False),
        (1, back, stop, "watched", "watching", 0, False),
    ]
    if is_bridged:
        rows.append((1, cut, back, "gap", "connection lost", 1, True))
    return [
        kept
        | {
            "connection": connection,
            "ts_from": start // US_NS,
            "ts_to": end // US_NS,
            "kind": kind,
            "cause": cause,
            "evidence": "overlap" if bridged else "socket",
            "bridged": bridged,
            "revision": revision,
            "ts_knowable_ns": end + revision,
        }
        for connection, start, end, kind, cause, revision, bridged in rows
    ]
