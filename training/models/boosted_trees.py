"""LightGBM on one bar."""

from __future__ import annotations

from typing import Final

import lightgbm
import numpy as np
import torch

from training.models.baseline import BarRows

MOST_ROUNDS: Final = 200


class BoostedTrees:
    """LightGBM on one bar's features, with missing ones as NaN; valid rows choose the number of trees."""

    def __init__(self, booster: lightgbm.Booster, *, rounds: int) -> None:
        self._booster, self.budget = booster, rounds

    @classmethod
    def fit(
        cls, train: BarRows, valid: BarRows | None, *, seed: int, threads: int, rounds: int = MOST_ROUNDS
    ) -> BoostedTrees:
        """Fit trees up to the best round on valid rows, or exactly `rounds` without them."""
        params = {
            "objective": "huber",
            "alpha": 1.0,
            "learning_rate": 0.03,
            "num_leaves": 15,
            "min_data_in_leaf": 200,
            "feature_fraction": 0.8,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 10.0,
            "seed": seed % 2**31,
            "num_threads": threads,
            "deterministic": True,
            "force_col_wise": True,
            "verbosity": -1,
        }
        data = lightgbm.Dataset(cls._design(train), train.label.numpy(), weight=cls._weight(train))
        if valid is None:
            return cls(lightgbm.train(params, data, max(rounds, 1)), rounds=max(rounds, 1))
        booster = lightgbm.train(
            params,
            data,
            rounds,
            valid_sets=[
                data.create_valid(cls._design(valid), valid.label.numpy(), weight=cls._weight(valid))
            ],
            callbacks=[lightgbm.early_stopping(20, verbose=False)],
        )
        return cls(booster, rounds=booster.best_iteration)

    def predict(self, table: BarRows) -> torch.Tensor:
        if len(table.x) == 0:
            return torch.zeros(0)
        predictions = self._booster.predict(self._design(table), num_iteration=self.budget)
        return torch.from_numpy(np.asarray(predictions, dtype=np.float32))

    def weights(self) -> dict[str, torch.Tensor]:
        text = self._booster.model_to_string(num_iteration=self.budget)
        return {"booster": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}

    @staticmethod
    def _weight(table: BarRows) -> np.ndarray | None:
        return None if table.weight is None else table.weight.numpy()

    @staticmethod
    def _design(table: BarRows) -> np.ndarray:
        design: np.ndarray = torch.where(table.mask > 0, table.x, torch.nan).numpy()
        return design
