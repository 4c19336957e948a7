"""What do we measure, against what? `python -m tests.benchmarks [name]` runs it; docs/benchmarks.md keeps figures."""
