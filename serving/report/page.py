"""Rendering of the report page, which needs no network and no script."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from features.monitoring.checks import PSI_MUCH, PSI_SOME
from features.monitoring.health import FeatureHealth
from serving import formatting
from serving.report.coverage import make_coverage
from serving.report.data_health import make_data_health
from serving.report.disclaimers import make_caveats
from serving.report.features import make_features
from serving.report.folds import make_folds
from serving.report.leak_suite import make_leak_suite
from serving.report.night_data import NightReport, read_night
from serving.report.outside_file import make_outside
from serving.report.pnl import COSTS, make_pnl
from serving.report.predictive_power import make_predictive_power
from serving.report.promotion import make_promotion
from serving.report.provenance import make_provenance
from serving.report.tear_sheet import make_tear_sheet
from serving.report.training_curves import make_training_curves
from storage.atomic_write import write_atomic
from storage.logs import get_logger
from storage.settings import Settings

logger = get_logger(__name__)

_HERE: Final = Path(__file__).resolve().parent
LATEST: Final = "latest.html"
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)
"""Content security policy of the page: it fetches nothing and runs nothing, whatever the data contains."""


def write_report(settings: Settings, night: str) -> str:
    """Write the page of a night, and a copy as `latest.html`; return the page's path.

    The page depends only on the night's folder and on the lake at the night's snapshot: equal inputs give equal bytes,
    wherever the home is and whenever it is written.

    Raises:
        GateError: there is no such night, or it has no verdict yet; the error names the step to run.
        LakeError: the night's snapshot cannot be read.
    """
    page = render(read_night(settings, night)).encode()
    settings.reports_dir.mkdir(parents=True, exist_ok=True)
    path = settings.report_path(night)
    for target in (path, settings.reports_dir / LATEST):
        write_atomic(target, page, is_synced=False)
    logger.info("report written", night=night, path=str(path), size_bytes=len(page))
    return str(path)


def render(facts: NightReport) -> str:
    """Return the page."""
    night = facts.night
    return (
        page_environment()
        .get_template("page.html.j2")
        .render(
            night=night["night"],
            recipe=facts.recipe.name,
            time_range=formatting.span(night["since_ns"], night["until_ns"]),
            width=facts.recipe.width,
            instruments=len(night["instruments"]),
            cost_names=COSTS,
            caveats=make_caveats(facts),
            verdict=make_promotion(facts),
            outside=make_outside(facts),
            coverage=make_coverage(facts),
            folds=make_folds(facts),
            leaks=make_leak_suite(facts),
            learning=make_training_curves(facts),
            skill=make_predictive_power(facts),
            money=make_pnl(facts),
            sheet=make_tear_sheet(facts),
            features=make_features(facts.health, checks=formatting.leakage_checks(facts.proof)),
            health=make_data_health(facts),
            provenance=make_provenance(facts),
        )
    )


def write_features(path: Path, health: FeatureHealth) -> Path:
    """Write a page about the features of one block, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render_features(health), is_synced=False)
    return path


def render_features(health: FeatureHealth) -> str:
    """Return a page about the features of one block."""
    refused = len(health.refusals)
    return (
        page_environment()
        .get_template("features_page.html.j2")
        .render(
            feature_set=health.feature_set,
            fingerprint=health.fingerprint[:12],
            instruments=len(health.instruments),
            verdict=f"refused, {refused} limits broken" if refused else "fit for training",
            features=make_features(health),
        )
    )


def page_environment() -> Environment:
    """Return the template environment; everything is escaped except our own style and SVG."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Our own file without data: besides our own SVG the only text that is not escaped.
    style = Markup((_HERE / "page.css").read_text(encoding="utf-8"))  # noqa: S704
    environment.globals |= {"style": style, "policy": POLICY, "psi_some": PSI_SOME, "psi_much": PSI_MUCH}
    return environment
