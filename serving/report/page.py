"""How does a judged night become one page that opens from disk, with no network and no script?"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from features.monitoring.checks import PSI_MUCH, PSI_SOME
from features.monitoring.health import FeatureHealth
from serving.report import formatting as words
from serving.report.coverage import make_coverage
from serving.report.data_health import make_health
from serving.report.disclaimers import make_claims
from serving.report.features import make_features
from serving.report.folds import make_folds
from serving.report.night_data import NightReport, read_facts
from serving.report.pnl import COSTS, make_money
from serving.report.predictive_power import make_skill
from serving.report.promotion import make_verdict
from serving.report.provenance import make_provenance
from serving.report.training_curves import make_learning
from storage.atomic_write import write_atomic
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_HERE: Final = Path(__file__).resolve().parent
LATEST: Final = "latest.html"
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)
"""The page's content security policy: nothing is fetched, and nothing runs, whatever a name holds."""


def write_report(settings: Settings, night: str) -> str:
    """Write a night's page, and `latest.html` beside it; return the page's path.

    The page depends on the night's folder and on the lake at the night's snapshot alone: equal ones give equal
    bytes, wherever the home lies and whenever it is written.

    Raises:
        GateError: there is no such night, or it is not judged yet; the error names the step to run.
        LakeError: the night's snapshot cannot be read.
    """
    page = render(read_facts(settings, night)).encode()
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    path = settings.reports_dir / f"{night}.html"
    for target in (path, settings.reports_dir / LATEST):
        write_atomic(target, page, is_synced=False)
    logger.info("report written", night=night, path=str(path), size_bytes=len(page))
    return str(path)


def render(facts: NightReport) -> str:
    """Return the page."""
    night = facts.night
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            night=night["night"],
            recipe=facts.recipe.name,
            reach=words.span(night["since_ns"], night["until_ns"]),
            width=facts.recipe.width,
            instruments=len(night["instruments"]),
            costs_named=COSTS,
            claims=make_claims(facts),
            verdict=make_verdict(facts),
            coverage=make_coverage(facts),
            folds=make_folds(facts),
            learning=make_learning(facts),
            skill=make_skill(facts),
            money=make_money(facts),
            features=make_features(facts.health, checks=words.proven(facts.proof)),
            health=make_health(facts),
            provenance=make_provenance(facts),
        )
    )


def write_features(path: Path, health: FeatureHealth) -> Path:
    """Write a page of one block's features alone, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render_features(health), is_synced=False)
    return path


def render_features(health: FeatureHealth) -> str:
    """Return a page of one block's features alone."""
    refused = len(health.refusals)
    return (
        _environment()
        .get_template("features_page.html.j2")
        .render(
            feature_set=health.feature_set,
            fingerprint=health.fingerprint[:12],
            instruments=len(health.instruments),
            verdict=f"refused, {refused} limits broken" if refused else "fit to learn from",
            features=make_features(health),
        )
    )


def _environment() -> Environment:
    """Return what fills templates in: everything is escaped but our own style and pictures."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Ours, and free of data: the one text beside our own SVG that is not escaped.
    style = Markup((_HERE / "page.css").read_text(encoding="utf-8"))  # noqa: S704
    environment.globals |= {"style": style, "policy": POLICY, "psi_some": PSI_SOME, "psi_much": PSI_MUCH}
    return environment
