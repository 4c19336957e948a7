"""From tables to a registered model version: labels, folds, training, gate, ledger."""
