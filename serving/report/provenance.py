"""What was this night made from, and which commands make it again?"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from serving import formatting
from serving.report.night_data import NightReport
from storage.clock import iso
from training.recipe import RECIPES


@dataclass(frozen=True, slots=True)
class ProvenanceLine:
    """One line of provenance."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ProvenanceSection:
    """The section."""

    facts: tuple[ProvenanceLine, ...]
    commands: tuple[tuple[str, str], ...]
    recipe_json: str
    is_dirty: bool
    snapshot: str


def make_provenance(facts: NightReport) -> ProvenanceSection:
    """Return the section."""
    night = facts.night
    code = str(night["code"])
    told = (
        ProvenanceLine("night", night["night"], "named by recipe, rows, features, seed and training code"),
        ProvenanceLine("recipe", f"{facts.recipe.name}: {', '.join(facts.models)}", "in full below"),
        ProvenanceLine(
            "range", formatting.span(night["since_ns"], night["until_ns"]) + " UTC", "of the bars"
        ),
        ProvenanceLine("snapshot", str(night["snapshot"]), "of the lake; pinned, so it does not expire"),
        ProvenanceLine("content hash", night["content_hash"], "of the panel's rows, in any lake"),
        ProvenanceLine("feature set", f"{night['feature_set']}, {len(night['feature_names'])} features", ""),
        ProvenanceLine("feature fingerprint", night["feature_fingerprint"], "of declarations and source"),
        ProvenanceLine("code", code, "version and commit"),
        ProvenanceLine("training code", night["training_code"], "hash of the room's source"),
        ProvenanceLine("lock", night["lock"], "hash of the locked environment"),
        ProvenanceLine("torch", night["torch_version"], ""),
        ProvenanceLine("device", night["device"], "equal bits are promised on the same kind of device"),
        ProvenanceLine("seed", str(night["seed"]), "every random draw starts here"),
        ProvenanceLine(
            "version", str(facts.deploy["version"]), "the challenger's refit, in the ledger of versions"
        ),
        ProvenanceLine(
            "refit on",
            f"{formatting.count(facts.deploy['rows'])} rows up to {formatting.clock(facts.deploy['cutoff_ns'])} UTC",
            "every labelled row up to the cut-off; it saw the test rows, so the figures above are not its own",
        ),
    )
    return ProvenanceSection(
        facts=told,
        commands=_commands(facts),
        recipe_json=json.dumps(night["recipe"], indent=1, sort_keys=True),
        is_dirty=code.endswith(".dirty"),
        snapshot=str(night["snapshot"]),
    )


def _commands(facts: NightReport) -> tuple[tuple[str, str], ...]:
    """Return (what it does, command); times are written in full, so that the night's id comes out again."""
    night, snapshot = facts.night, facts.night["snapshot"]
    commit = str(night["code"]).partition("+g")[2].removesuffix(".dirty")
    # A recipe that has no name of its own here came from a file, which the page holds in full.
    recipe = facts.recipe.name if facts.recipe.name in RECIPES else f"{facts.recipe.name}.toml"
    nightly = (
        f"tickwalk --set training.seed={night['seed']} --set training.device={night['device']} nightly "
        f"--recipe {shlex.quote(recipe)} --at {snapshot} "
        f"--since {iso(night['since_ns'])} --until {iso(night['until_ns'])}"
    )
    rows = (
        "SELECT instrument, status, cause, count(*) AS bars FROM bars_latest "
        f"WHERE width = '{facts.recipe.width}' GROUP BY ALL ORDER BY ALL"
    )
    found = [("the code", f"git checkout {commit}")] if commit else []
    return (
        *found,
        ("the night: same rows, same bits", nightly),
        ("the rows it read", f'tickwalk sql "{rows}" --at {snapshot}'),
        ("this page", f"tickwalk report {night['night']}"),
    )
