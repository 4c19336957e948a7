"""Contexts (oracle, mark, funding, open interest) from the venue's archive.

A step is a day: one CSV of all coins, about a row a minute each. Rows off the minute are kept as they are (an audit
found 1,242 of them, and gaps of up to a day). A context has no venue time; the archive's takes the place of our
receipt, and the row is knowable `bars.history_lag_ms` later.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.csv as csv

from ingest.backfill.archive.ndjson import MalformedLine
from ingest.backfill.archive.object_cache import ObjectCache
from ingest.backfill.archive.object_keys import (
    CONTEXTS,
    CONTEXTS_FROM_NS,
    check_archive_range,
    context_key,
    day_text,
    days_of,
)
from ingest.backfill.archive.trades import quarantine_rows
from ingest.backfill.source import BackfillRequest, BackfillStep, StepResult
from ingest.venues.hyperliquid.protocol import VENUE, kind_of
from storage.clock import DAY_NS, MS_NS, TimeSource, iso, parse_time_ns
from storage.contracts import tables as contracts
from storage.lake.connection import connect_in_memory
from storage.settings import Settings

_KEY: Final = "archive:contexts:"
_NUMBERS: Final = {
    "funding_rate": "funding",
    "open_interest": "open_interest",
    "oracle": "oracle_px",
    "mark": "mark_px",
    "mid": "mid_px",
    "premium": "premium",
    "day_notional": "day_ntl_vlm",
}
"""The archive's columns by ours; its other columns (impact prices, yesterday's price) are not stored."""
_NEEDED: Final = ("time", "coin", *_NUMBERS.values())


class ArchiveContextSource:
    """Contexts from the venue's archive of market data."""

    def __init__(self, objects: ObjectCache, settings: Settings, clock: TimeSource) -> None:
        """Prepare a source.

        Args:
            objects: of `archive.market_data`.
            settings: section `bars`.
            clock: bounds the range, and stamps fetches of objects.
        """
        self._objects, self._settings, self._clock = objects, settings, clock

    async def steps(self, request: BackfillRequest) -> Sequence[BackfillStep]:
        """Return one step a day.

        Raises:
            RangeError: outside the archive, see `check_archive_range`.
            VenueError: the archive cannot be reached.
        """
        check_archive_range(request, "contexts", CONTEXTS_FROM_NS, self._clock.now_ns())
        sizes = await asyncio.to_thread(self._objects.listed, f"{CONTEXTS}/")
        coins = ",".join(sorted(request.coins)) or "*"
        steps = []
        for day_ns in days_of(request):
            key = context_key(day_ns)
            size = 0 if self._objects.is_held(key) else None if sizes is None else sizes.get(key, 0)
            steps.append(
                BackfillStep(
                    f"{_KEY}{day_text(day_ns)}:{coins}", f"contexts of {iso(day_ns)[:10]}", size_bytes=size
                )
            )
        return steps

    async def fetch(self, step: BackfillStep) -> StepResult:
        """Fetch the contexts of a day; see `BackfillSource`."""
        day, coins = step.key.removeprefix(_KEY).split(":", 1)
        day_ns = parse_time_ns(f"{day[:4]}-{day[4:6]}-{day[6:]}")
        wanted = () if coins == "*" else tuple(coins.split(","))
        return await asyncio.to_thread(self._fetch, day_ns, wanted)

    def _fetch(self, day_ns: int, wanted: tuple[str, ...]) -> StepResult:
        key = context_key(day_ns)
        entry = self._objects.fetch(key, self._clock.now_ns())
        if entry.state != "held":
            return StepResult({}, absent=f"{key}: {entry.reason}")
        body = b"".join(self._objects.pieces(key))
        header = body.split(b"\n", 1)[0].decode("utf-8", "replace").strip().split(",")
        if missing := [name for name in _NEEDED if name not in header]:
            return StepResult({}, absent=f"{key}: it has no column {missing[0]} (has {', '.join(header)})")
        name = f"{self._objects.where}/{key}"
        lag_ns = self._settings.bars.history_lag_ms * MS_NS
        try:
            rows, bad = context_rows(body, header, wanted, name, lag_ns)
        except pa.ArrowInvalid as error:
            return StepResult({}, absent=f"{key}: it is no CSV: {error}")
        if not rows.num_rows and not bad:
            return StepResult(
                {}, absent=f"{key}: it has no row of {', '.join(wanted) or 'any coin'}; names are byte-exact"
            )
        tables = {
            "contexts": rows,
            "quarantine": quarantine_rows(bad, [], [name], day_ns + DAY_NS + lag_ns, "contexts"),
        }
        return StepResult(
            {table: part for table, part in tables.items() if part.num_rows},
            {"objects": {name: entry.sha256}},
        )


def context_rows(
    body: bytes, header: Sequence[str], wanted: Sequence[str], journal: str, lag_ns: int
) -> tuple[pa.Table, list[MalformedLine]]:
    """Return rows of `contexts` in file order, and the malformed lines."""
    bad: list[MalformedLine] = []

    def note_malformed(row: Any) -> Literal["skip", "error"]:
        reason = f"{row.actual_columns} columns, not {row.expected_columns}"
        bad.append(MalformedLine(0, int(row.number), row.text.encode(), reason))
        return "skip"

    texts = csv.read_csv(
        io.BytesIO(body),
        read_options=csv.ReadOptions(use_threads=False),  # only then are lines numbered
        parse_options=csv.ParseOptions(invalid_row_handler=note_malformed),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            include_columns=list(_NEEDED),
            strings_can_be_null=False,
        ),
    )
    kinds = {coin: kind_of(coin) for coin in map(str, texts["coin"].unique().to_pylist())}
    run = connect_in_memory()
    run.register("texts", texts.append_column("line", pa.array(range(1, texts.num_rows + 1), pa.int64())))
    run.register("kinds", pa.table({"coin": list(kinds), "kind": list(kinds.values())}))
    read = ", ".join(
        f"TRY_CAST(nullif({theirs}, '') AS DOUBLE) AS our_{ours}" for ours, theirs in _NUMBERS.items()
    )
    unread = " OR ".join(f"(our_{ours} IS NULL AND {theirs} <> '')" for ours, theirs in _NUMBERS.items())
    run.execute(
        f"""CREATE TEMP TABLE parsed AS
            WITH mine AS (
                SELECT *, TRY_CAST(time AS TIMESTAMPTZ) AS moment, {read} FROM texts JOIN kinds USING (coin)
                WHERE len(?) = 0 OR list_contains(?, coin)
            )
            SELECT *, epoch_us(moment) * 1000 AS at_ns, moment IS NULL OR {unread} AS is_bad FROM mine""",
        [list(wanted), list(wanted)],
    )
    ours = ", ".join(f"our_{name} AS {name}" for name in _NUMBERS)
    rows = run.execute(
        f"""SELECT concat_ws('|', ?, kind, coin) AS instrument, {ours}, 'archive' AS origin, at_ns AS ts_recv_ns,
                   at_ns + ? AS ts_knowable_ns, ? AS journal, line AS frame
            FROM parsed WHERE NOT is_bad ORDER BY line""",
        [VENUE, lag_ns, journal],
    ).to_arrow_table()
    raws = f"SELECT line, concat_ws(',', {', '.join(_NEEDED)}) FROM parsed WHERE is_bad ORDER BY line"
    for line, raw in run.execute(raws).fetchall():
        bad.append(MalformedLine(0, line, raw.encode(), "its time or one of its numbers cannot be read"))
    return rows.select(contracts.CONTEXTS.schema.names).cast(contracts.CONTEXTS.schema), bad
