"""Benchmarks: `python -m tests.benchmarks [name]` runs them; docs/benchmarks.md keeps the figures."""
