"""Contracts of the tables that record what was done to the lake and to models."""

from __future__ import annotations

from typing import Final

from storage.contracts.contract import F64, FLAG, I32, I64, KNOWABLE, TEXT, Column, Contract

VERSIONS: Final = Contract(
    "versions",
    "Ledger of model versions, append-only. A row is an event; the last `champion` event names the serving version, "
    "unless a later `paper` or `retired` event of that version ended it.",
    (
        Column("version", TEXT, "id of the model version"),
        Column(
            "event", TEXT, "what happened", one_of=("registered", "champion", "paper", "rejected", "retired")
        ),
        Column("recipe", TEXT, "the recipe of its training"),
        Column("model", TEXT, "the model's name"),
        Column("night", TEXT, "the night that produced it"),
        Column("reason", TEXT, "the reason, for people"),
        Column("who", TEXT, "who caused it, as `user@host`; empty: a night", nullable=True),
        Column("metrics", TEXT, "JSON: figures that the gate evaluated"),
        Column("inputs", TEXT, "JSON: snapshot, content hash, feature fingerprint, code version"),
        Column("artefact", TEXT, "folder of its checkpoint, relative to the models folder"),
        KNOWABLE,
    ),
    key=("version", "event", "ts_knowable_ns"),
)

LINEAGES: Final = Contract(
    "lineages",
    "Starts of the evidence that the promotion gate collects, append-only: one row per lineage and null hypothesis, "
    "and another after a demotion. Written by `judge_night`; docs/gate.md explains the terms.",
    (
        Column("lineage", TEXT, "hash of universe, bar width, feature set, label, position rule and costs"),
        Column(
            "null_hypothesis",
            TEXT,
            "`zero`: its mean net is at most 0; a lineage: its mean net is at most that of this other one",
        ),
        Column("k", I32, "number of the start in this home; the level is A / (k (k + 1))", low=1),
        Column(
            "p_value", F64, "of the history, adjusted for all models; null: no test", nullable=True, low=0
        ),
        Column("is_quoted", FLAG, "every day of the history had quotes"),
        Column("through_ns", I64, "end of the last day of the history; later days enter one by one"),
        Column("period_ns", I64, "length of a day (or hour) of this lineage", low=1),
        Column("definition", TEXT, "JSON: the parts of the lineage"),
        Column("recipe", TEXT, "the recipe of the night"),
        Column("night", TEXT, "the night that judged it first"),
        KNOWABLE,
    ),
    key=("lineage", "null_hypothesis", "k"),
)

GATE_DAYS: Final = Contract(
    "gate_days",
    "Net return of lineages by complete UTC day (or hour), append-only. A day enters once, in order. The evidence of a "
    "lineage is computed from these rows and `lineages` (docs/gate.md).",
    (
        Column("lineage", TEXT, "as in `lineages`"),
        Column("null_hypothesis", TEXT, "as in `lineages`"),
        Column("day_ns", I64, "start of the day", low=0),
        Column(
            "net", F64, "net of the lineage, after costs, less that of the lineage of the null hypothesis"
        ),
        Column(
            "risk",
            F64,
            "risk of the day, known before it; null: in the history, or not known yet",
            nullable=True,
        ),
        Column("worst_loss", F64, "worst daily loss of the day's positions on earlier prices", low=0),
        Column("is_quoted", FLAG, "every fill of the day had a quote"),
        Column(
            "source",
            TEXT,
            "`history`: tested at once; `path`: chosen models of a night; `ledger`: the paper ledger",
            one_of=("history", "path", "ledger"),
        ),
        Column("night", TEXT, "the night that added it"),
        KNOWABLE,
    ),
    key=("lineage", "null_hypothesis", "day_ns"),
)

TRIALS: Final = Contract(
    "trials",
    "Models that were evaluated on test rows, append-only: one row per member (model and seed of a recipe) and "
    "content, so evaluating the same predictions again adds nothing. Written by `judge_night`, wherever else "
    "predictions are judged, and by `tickwalk.record_trial` for notebooks; docs/gate.md says what it is for.",
    (
        Column("trial", TEXT, "hash of the predictions, the tests, the position rule and the costs"),
        Column(
            "source",
            TEXT,
            "`night`: a retraining night; `judge`: a file of predictions; `notebook`: a user's code on a night's tests",
            one_of=("night", "judge", "notebook"),
        ),
        Column("run", TEXT, "the night, or the id of the judged file"),
        Column("recipe", TEXT, "the recipe's name"),
        Column("lineage", TEXT, "as in `lineages`"),
        Column("model", TEXT, "the model's name"),
        Column("seed", I32, "number of its seed, from 0", low=0),
        Column("instruments", TEXT, "JSON: ids of the instruments with predictions"),
        Column("tested_since_ns", I64, "start of the first test"),
        Column("tested_until_ns", I64, "end of the last test, exclusive"),
        Column("net", F64, "net return after costs over the tests; null: not told", nullable=True),
        Column(
            "sharpe",
            F64,
            "its Sharpe ratio per holding period, not annualised; null: undefined, or not told",
            nullable=True,
        ),
        Column("who", TEXT, "who evaluated it, as `user@host`; empty: a night", nullable=True),
        KNOWABLE,
    ),
    key=("trial",),
    # The first evaluation stays: another night may have evaluated the same predictions under other names.
    compared=("tested_since_ns", "tested_until_ns"),
)

HOLDOUTS: Final = Contract(
    "holdouts",
    "Ranges that no recipe may read, append-only: a row is an event. A range whose last event is `sealed` is sealed. "
    "Written by `tickwalk holdout`; docs/gate.md says what it is for.",
    (
        Column("since_ns", I64, "start of the range"),
        Column("until_ns", I64, "end of the range, exclusive"),
        Column("event", TEXT, "what happened", one_of=("sealed", "opened")),
        Column("reason", TEXT, "why, for people"),
        Column("who", TEXT, "who did it, as `user@host`"),
        KNOWABLE,
    ),
    key=("since_ns", "until_ns", "ts_knowable_ns"),
    ordered=(("since_ns", "until_ns"),),
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
