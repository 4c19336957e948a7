"""Faults of the simulated venue."""
