"""Benchmark runner: one JSON object per figure on standard output, progress on standard error."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from storage.logs import configure_logs
from tests.benchmarks.harness import BENCHES


def main(arguments: list[str]) -> int:
    """Run the benchmarks whose module or full name is `arguments[0]`, or all, and return the exit status."""
    configure_logs(level="warning")  # to standard error, as what runs
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        importlib.import_module(f"tests.benchmarks.{path.stem}")
    wanted = arguments[0] if arguments else ""
    chosen = [name for name in BENCHES if wanted in ("", name, name.partition(".")[0])]
    if not chosen:
        sys.stderr.write(f"no benchmark is called {wanted!r}; there are: {', '.join(sorted(BENCHES))}\n")
        return 2
    for name in chosen:
        sys.stderr.write(f"running {name}\n")
        for figure in BENCHES[name]():
            print(json.dumps(asdict(figure)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
