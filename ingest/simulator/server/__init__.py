"""Endpoints and sessions of the simulated venue."""
