"""Choice of the model that serves: ridge unless another was better beyond luck."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.selection import choose

ORDER = ("zero", "momentum", "ridge", "lightgbm", "mlp", "lstm")


def nets_of(n: int = 200, *, seed: int = 0, common: float = 1.0, **edge: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    market = common * rng.standard_normal(n)
    return {name: market + rng.standard_normal(n) + edge.get(name, 0.0) for name in ORDER}


def test_ridge_stays_without_a_difference() -> None:
    replaced = sum(choose(nets_of(seed=seed), order=ORDER, draws=400).model != "ridge" for seed in range(100))
    assert replaced <= 10


def test_better_model_replaces_ridge() -> None:
    chosen = choose(nets_of(lstm=0.6), order=ORDER, draws=1_000)
    assert chosen.model == "lstm"
    last = chosen.comparisons[-1]
    assert (last.model, last.current) == ("lstm", "ridge")
    assert last.p_value <= 0.05
    assert last.mean == pytest.approx(0.6, abs=0.2)


def test_simplest_of_equally_good_models_is_chosen() -> None:
    assert choose(nets_of(mlp=0.6, lstm=0.6), order=ORDER, draws=1_000).model == "mlp"


def test_later_model_must_beat_the_choice_before_it() -> None:
    assert choose(nets_of(lightgbm=0.6, lstm=1.4), order=ORDER, draws=1_000).model == "lstm"
    assert choose(nets_of(lightgbm=1.4, lstm=0.6), order=ORDER, draws=1_000).model == "lightgbm"


def test_zero_and_momentum_never_serve() -> None:
    assert choose(nets_of(zero=9.0, momentum=9.0), order=ORDER, draws=400).model == "ridge"
    with pytest.raises(ValueError, match="none of zero, momentum may serve"):
        choose(nets_of(), order=("zero", "momentum"))


def test_only_paired_returns_count() -> None:
    """A common market a hundred times as large as the edge does not hide it."""
    assert choose(nets_of(common=60.0, mlp=0.6), order=ORDER, draws=1_000).model == "mlp"


@pytest.mark.parametrize("periods", [0, 1, 19])
def test_first_choice_stays_while_windows_are_too_short(periods: int) -> None:
    nets = {name: values[:periods] for name, values in nets_of(lstm=9.0).items()}
    chosen = choose(nets, order=ORDER)
    assert chosen.model == "ridge"
    assert {item.p_value for item in chosen.comparisons} == {1.0}


def test_first_model_of_the_order_starts_where_there_is_no_ridge() -> None:
    assert choose(nets_of(), order=("zero", "mlp", "lstm"), draws=400).model == "mlp"


def test_order_of_the_recipe_is_kept_behind_ridge() -> None:
    """A challenger listed before ridge is still compared with it."""
    assert choose(nets_of(mlp=0.6), order=("mlp", "ridge"), draws=1_000).comparisons[0].current == "ridge"


def test_lengths_must_agree() -> None:
    nets = nets_of()
    nets["mlp"] = nets["mlp"][:-1]
    with pytest.raises(ValueError, match=r"\[199, 200\] periods"):
        choose(nets, order=ORDER)
