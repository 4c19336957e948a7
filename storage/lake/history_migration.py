"""Statements that bring an older lake to the rule of `history_stamps`: they register its recordings, and stamp history.

Old lakes have no table `recordings`. What a recording listed, and when, follows from the intervals that it watched.
The headers in the journal may say more, and add rows at the next command that writes history. The rows have an empty
`home`, since nothing says which home's they were.
"""

from __future__ import annotations

from typing import Final

from storage.clock import DAY_NS, US_NS
from storage.contracts.contract import HISTORY_ORIGINS

MIGRATION_BATCH: Final = "migration"
"""Batch of the rows that migrations write, which are no commit's and not in `batches`."""

# Coverage from an archive has the address of an object in place of a recording's name.
REGISTER: Final = f"""
    INSERT INTO recordings BY NAME
    SELECT journal AS recording, '' AS home, max(split_part(instrument, '|', 1)) AS venue,
           CAST(to_json(list_sort(list(DISTINCT instrument))) AS VARCHAR) AS instruments,
           epoch_us(min(ts_from)) * {US_NS} AS ts_started_ns, epoch_us(max(ts_to)) * {US_NS} AS ts_last_ns,
           epoch_us(max(ts_to)) * {US_NS} AS ts_knowable_ns,
           CAST({{now}} AS BIGINT) AS ts_ingested_ns, '{MIGRATION_BATCH}' AS batch
    FROM coverage WHERE kind = 'watched' AND NOT contains(journal, '/') GROUP BY journal
"""

RESTAMP: Final = f"""
    UPDATE bars SET ts_knowable_ns = greatest(ts_ingested_ns, epoch_us(ts_close) * {US_NS})
    WHERE origin IN {HISTORY_ORIGINS} AND EXISTS (
        SELECT 1
        FROM (
            SELECT unnest(from_json(instruments, '["VARCHAR"]')) AS instrument, ts_started_ns, ts_last_ns
            FROM recordings
        ) listed
        WHERE listed.instrument = bars.instrument AND ts_started_ns < epoch_us(ts_close) * {US_NS}
          AND ts_last_ns >= epoch_us(ts_close) * {US_NS} - {DAY_NS}
    )
"""
