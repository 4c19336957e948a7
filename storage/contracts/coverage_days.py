"""Contract of the table `coverage_days`: how much of each instrument's day can be used, and why not more."""

from __future__ import annotations

from typing import Final

from storage.contracts.contract import F64, I32, INSTRUMENT, KNOWABLE, TEXT, Column, Contract

DAY_STATES: Final = ("complete", "repaired", "partial", "missing")
"""From best to worst."""

COVERAGE_DAYS: Final = Contract(
    "coverage_days",
    "Coverage of an instrument's UTC day, counted in bars of the width on which models train. A bar is covered if "
    "the row that counts is `printed`, `quiet` or `halted`; it is missing if that is `blind` or `unknown`, or if there "
    "is no row. Covered and missing hours add up to the listed hours: from the first listing or bar in the lake until "
    "the venue delists it, or until its last bar if nobody records it. A day without listed hours, or of an instrument "
    "that the newest recording of its venue left out, has no row. Written by `seal_day`, `repair_gaps` and "
    "`backfill_history`; the view `coverage_days_latest` has the last revision of each day.",
    (
        INSTRUMENT,
        Column("day", TEXT, "the UTC day, such as `2026-11-22`: the partition key of `seal_day`"),
        Column("revision", I32, "0 when sealed, then incremented for each change", low=0),
        Column(
            "state",
            TEXT,
            "`complete`: all listed hours were recorded as they happened; `repaired`: all are covered, some by resent "
            "prints, the venue's candles or its archive; `partial`: some are missing; `missing`: all are",
            one_of=DAY_STATES,
        ),
        Column("covered_h", F64, "listed hours with usable bars", low=0.0, high=24.0, nan=False),
        Column("missing_h", F64, "listed hours without", low=0.0, high=24.0, nan=False),
        Column(
            "repairable_h",
            F64,
            "part of `missing_h` that the venue's API still served at `ts_knowable_ns`; archives, which cost money, "
            "do not count",
            low=0.0,
            high=24.0,
            nan=False,
        ),
        Column(
            "causes",
            TEXT,
            "hours of `missing_h` by cause, the longest first, such as `recorder_down=3.1,silent_stream=0.4`; "
            "empty: none",
        ),
        KNOWABLE,
    ),
    key=("instrument", "day", "revision"),
    ordered=(("repairable_h", "missing_h"),),
    # With the time, since a day may become again what it was two revisions before.
    compared=("state", "covered_h", "missing_h", "repairable_h", "causes", "ts_knowable_ns"),
    revises=True,
)
