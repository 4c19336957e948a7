"""Contracts of the tables that record what was done to the lake and to models."""

from __future__ import annotations

from typing import Final

from storage.contracts.contract import I32, I64, KNOWABLE, TEXT, Column, Contract

VERSIONS: Final = Contract(
    "versions",
    "Ledger of model versions, append-only. A row is an event; the last `champion` event names the serving version.",
    (
        Column("version", TEXT, "id of the model version"),
        Column("event", TEXT, "what happened", one_of=("registered", "champion", "rejected", "retired")),
        Column("recipe", TEXT, "the recipe of its training"),
        Column("model", TEXT, "the model's name"),
        Column("night", TEXT, "the night that produced it"),
        Column("reason", TEXT, "the reason, for people"),
        Column("metrics", TEXT, "JSON: figures that the gate evaluated"),
        Column("inputs", TEXT, "JSON: snapshot, content hash, feature fingerprint, code version"),
        Column("artefact", TEXT, "folder of its checkpoint, relative to the models folder"),
        KNOWABLE,
    ),
    key=("version", "event", "ts_knowable_ns"),
)

PINS: Final = Contract(
    "pins",
    "Snapshots that must never expire, with a hash of their rows. Append-only: a row is an event, and the view "
    "`pins_held` shows the current pins. Written by each night and by `tickwalk lake pin`.",
    (
        Column("pin", TEXT, "name of the pin, such as a night's id"),
        Column("snapshot", I64, "the snapshot", low=0),
        Column(
            "content",
            TEXT,
            "`rows:` and a hash of the rows of all tables, or a night's hash of its panel",
        ),
        Column("event", TEXT, "what happened", one_of=("pinned", "unpinned")),
        KNOWABLE,
    ),
    key=("pin", "snapshot", "ts_knowable_ns"),
)

MIGRATIONS: Final = Contract(
    "migrations",
    "Migration steps applied to this lake, one row each. Written when a newer release opens a lake. "
    "A release refuses a lake with steps that it does not know.",
    (
        Column("number", I32, "number of the step; steps are applied in this order", low=1),
        Column("name", TEXT, "what the step does"),
        Column("code", TEXT, "version and commit of the code that applied it"),
        KNOWABLE,
    ),
    key=("number",),
)

RETRIES: Final = Contract(
    "retries",
    "Rows of `quarantine` that `tickwalk quarantine retry` found valid and wrote to their table. "
    "The row in `quarantine` stays.",
    (
        Column("table_name", TEXT, "as in `quarantine`"),
        Column("source", TEXT, "as in `quarantine`"),
        Column("reason", TEXT, "as in `quarantine`: the original reason"),
        KNOWABLE,
    ),
    key=("table_name", "source", "reason"),
)

BATCHES: Final = Contract(
    "batches",
    "One row per commit: number of rows, lineage and code version.",
    (
        Column("batch_id", TEXT, "id of the batch; committing an id again does nothing"),
        Column("rows", TEXT, "JSON: rows by table"),
        Column("inputs", TEXT, "JSON: lineage, such as journal segments, files or snapshots"),
        Column("code", TEXT, "version and commit of the code"),
        KNOWABLE,
    ),
    key=("batch_id",),
)
