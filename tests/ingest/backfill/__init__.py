"""Filling in the past: sources, the driver, and what they leave in the tables."""
