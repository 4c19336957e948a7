"""Evaluation: metrics, positions, costs, promotion gate."""
