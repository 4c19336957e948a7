"""Training data: labels, folds, panel windows."""
