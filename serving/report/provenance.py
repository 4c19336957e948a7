"""Report section on provenance: inputs of the night, and commands to reproduce it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from serving import formatting
from serving.report.night_data import NightReport
from storage.clock import iso
from training.recipe import recipe_names


@dataclass(frozen=True, slots=True)
class ProvenanceLine:
    """One line of provenance."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ProvenanceSection:
    """Values of the section's template."""

    facts: tuple[ProvenanceLine, ...]
    commands: tuple[tuple[str, str], ...]
    recipe_json: str
    is_dirty: bool
    snapshot: str


def make_provenance(facts: NightReport) -> ProvenanceSection:
    """Return the section."""
    night = facts.night
    code = str(night["code"])
    lines = (
        ProvenanceLine("night", night["night"], "hash of recipe, rows, features, seed and training code"),
        ProvenanceLine("recipe", f"{facts.recipe.name}: {', '.join(facts.models)}", "full text below"),
        ProvenanceLine(
            "range", formatting.span(night["since_ns"], night["until_ns"]) + " UTC", "of the bars"
        ),
        ProvenanceLine("snapshot", str(night["snapshot"]), "of the lake; pinned, so it does not expire"),
        ProvenanceLine("content hash", night["content_hash"], "of the panel's rows, in any lake"),
        ProvenanceLine("feature set", f"{night['feature_set']}, {len(night['feature_names'])} features", ""),
        ProvenanceLine("feature fingerprint", night["feature_fingerprint"], "of declarations and source"),
        ProvenanceLine("code", code, "version and commit"),
        ProvenanceLine("training code", night["training_code"], "hash of the package's source"),
        ProvenanceLine("lock", night["lock"], "hash of the locked environment"),
        ProvenanceLine("torch", night["torch_version"], ""),
        ProvenanceLine("device", night["device"], "results are bit-identical on the same kind of device"),
        ProvenanceLine("seed", str(night["seed"]), "of all random numbers"),
        *_result(facts),
    )
    return ProvenanceSection(
        facts=lines,
        commands=_commands(facts),
        recipe_json=json.dumps(night["recipe"], indent=1, sort_keys=True),
        is_dirty=code.endswith(".dirty"),
        snapshot=str(night["snapshot"]),
    )


def _result(facts: NightReport) -> tuple[ProvenanceLine, ...]:
    """Return the version that came of it, or the predictions that were judged."""
    if facts.outside is not None:
        return (
            ProvenanceLine(
                "predictions", facts.outside["name"], "made elsewhere; their name is the lineage's"
            ),
            ProvenanceLine(
                "predictions hash", facts.night["predictions"], "of the rows, in any order and format"
            ),
        )
    return (
        ProvenanceLine(
            "version", str(facts.deploy["version"]), "the challenger's refit, in the model registry"
        ),
        ProvenanceLine(
            "refit on",
            f"{formatting.count(facts.deploy['rows'])} rows up to {formatting.clock(facts.deploy['cutoff_ns'])} UTC",
            "includes the test rows, so the results above are not those of the refit",
        ),
    )


def _commands(facts: NightReport) -> tuple[tuple[str, str], ...]:
    """Return (description, command); times are written in full, so that the night gets the same id."""
    night, snapshot = facts.night, facts.night["snapshot"]
    commit = str(night["code"]).partition("+g")[2].removesuffix(".dirty")
    # A recipe without a name of its own came from a file; the page contains its full text.
    recipe = facts.recipe.name if facts.recipe.name in recipe_names() else f"{facts.recipe.name}.toml"
    verb = "nightly"
    if facts.outside is not None:
        verb = (
            f"judge {shlex.quote(facts.outside['name'])}.parquet --name {shlex.quote(facts.outside['name'])}"
        )
    nightly = (
        f"tickwalk --set training.seed={night['seed']} --set training.device={night['device']} {verb} "
        f"--recipe {shlex.quote(recipe)} --at {snapshot} "
        f"--since {iso(night['since_ns'])} --until {iso(night['until_ns'])}"
    )
    rows = (
        "SELECT instrument, status, cause, count(*) AS bars FROM bars_latest "
        f"WHERE width = '{facts.recipe.width}' GROUP BY ALL ORDER BY ALL"
    )
    found = [("check out the code", f"git checkout {commit}")] if commit else []
    return (
        *found,
        ("rerun the night: same rows, same bits", nightly),
        ("query the rows it read", f'tickwalk sql "{rows}" --at {snapshot}'),
        ("write this page again", f"tickwalk report {night['night']}"),
    )
