"""Report section on training: loss curves, and the epochs or rounds chosen on validation rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from serving import formatting
from serving.report import charts as svg
from serving.report.night_data import NightReport

_HEIGHT: Final = 104.0


@dataclass(frozen=True, slots=True)
class Curve:
    """Loss curves of one model on one fold, with all seeds."""

    fold: int
    picture: Markup
    note: str


@dataclass(frozen=True, slots=True)
class ModelCurves:
    """Loss curves of one network on all folds, with equal axes."""

    model: str
    parameters: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True)
class EpochBudget:
    """Epochs or rounds chosen for one member on each fold."""

    member: str
    unit: str
    chosen: tuple[str, ...]
    deployed: str


@dataclass(frozen=True, slots=True)
class TrainingCurvesSection:
    """Values of the section's template."""

    models: tuple[ModelCurves, ...]
    budgets: tuple[EpochBudget, ...]
    folds: tuple[int, ...]
    has_seeds: bool


def make_training_curves(facts: NightReport) -> TrainingCurvesSection:
    """Return the section."""
    folds = tuple(entry["index"] for entry in facts.folds)
    members = list(dict.fromkeys(name for _, name in facts.metrics))
    with_history = [name for name in facts.models if any(facts.metrics[f, name]["history"] for f in folds)]
    chosen = [name for name in members if any(facts.metrics[fold, name]["budget"] for fold in folds)]
    return TrainingCurvesSection(
        models=tuple(_model(facts, name, folds) for name in with_history),
        budgets=tuple(
            _budget(facts, name, folds, is_network=_model_of(name) in with_history) for name in chosen
        ),
        folds=folds,
        has_seeds=facts.recipe.seeds > 1,
    )


def _model_of(member: str) -> str:
    return member.partition("+")[0]


def _model(facts: NightReport, model: str, folds: tuple[int, ...]) -> ModelCurves:
    by_fold = {
        fold: [
            metrics["history"]
            for (at, member), metrics in facts.metrics.items()
            if at == fold and _model_of(member) == model
        ]
        for fold in folds
    }
    entries = [entry for histories in by_fold.values() for history in histories for entry in history]
    scale = svg.Linear.around(
        [
            value
            for entry in entries
            for value in (entry["train_loss"], entry["valid_loss"])
            if value is not None
        ],
        pad=0.12,
    )
    epochs = max(entry["epoch"] for entry in entries)
    parameters = formatting.count(facts.metrics[folds[0], model]["parameters"])
    curves = tuple(_curve(model, fold, by_fold[fold], scale, epochs) for fold in folds)
    return ModelCurves(model, parameters, curves)


def _curve(
    model: str, fold: int, histories: list[list[dict[str, Any]]], scale: svg.Linear, epochs: float
) -> Curve:
    ticks = scale.ticks(3)
    digits = formatting.needed_digits(ticks)
    marks = [(_down(scale, at), formatting.decimal(at, digits)) for at in ticks]
    drawn = [
        svg.rules_across(at for at, _ in marks),
        svg.stretched(
            *(
                line
                for number, history in reversed(list(enumerate(histories)))
                for line in _lines(history, scale, epochs, number)
            ),
            height=_HEIGHT,
        ),
        svg.texts_at_left(marks),
    ]
    best = next((entry for entry in histories[0] if entry["epoch"] == histories[0][-1]["best_epoch"]), None)
    trained = histories[0][-1]["epoch"]
    if best is None or best["epoch"] == 0:
        note = "no epoch improved the validation loss"
    else:
        note = f"best: epoch {best['epoch']:g} of {trained:g}, {formatting.decimal(best['valid_loss'], 4)}"
        at = {"cx": svg.percent(_across(best["epoch"], epochs)), "cy": _down(scale, best["valid_loss"])}
        drawn.append(svg.el("circle", svg.el("title", note), **at, r=4.5, class_="best"))
    label = f"{model}, fold {fold}: {note}"
    return Curve(fold, svg.picture(*drawn, height=_HEIGHT, label=label), note)


def _lines(history: list[dict[str, Any]], scale: svg.Linear, epochs: float, number: int) -> list[Markup]:
    faint = " other" if number else ""
    return [
        svg.path(
            [
                (_across(entry["epoch"], epochs), _down(scale, entry[name]))
                for entry in history
                if entry[name] is not None
            ],
            class_=f"line {kind}{faint}",
        )
        for name, kind in (("train_loss", "loss-train"), ("valid_loss", "loss-valid"))
    ]


def _across(epoch: float, epochs: float) -> float:
    return 0.18 + 0.78 * epoch / epochs


def _down(scale: svg.Linear, value: float) -> float:
    return _HEIGHT * (1 - scale.share(value))


def _budget(facts: NightReport, member: str, folds: tuple[int, ...], *, is_network: bool) -> EpochBudget:
    # A network's budget counts validation points, of which the first comes before epoch 1; in nights of older releases
    # it counts epochs.
    history = facts.metrics[folds[0], member]["history"]
    per_unit = facts.recipe.fit.checks if is_network and history[0]["epoch"] == 0 else 1
    return EpochBudget(
        member=member,
        unit="epochs" if is_network else "rounds",
        chosen=tuple(f"{facts.metrics[fold, member]['budget'] / per_unit:g}" for fold in folds),
        deployed=f"{facts.deploy['budget'] / per_unit:g}"
        if member == facts.deploy.get("model")
        else formatting.NOTHING,
    )
