"""Map every test from before a restructuring to its counterpart afterwards.

    python -m pytest --collect-only -q > before.txt     # at the old commit
    python -m pytest --collect-only -q > after.txt      # here
    python scripts/map_tests.py before.txt after.txt

Each line of `tests/renamed_tests.txt` is `OLD -> NEW`: a file, a function (`file::function`) or one test with its
parameters (`file::function[id]`). The most exact line wins, and lines are followed one after another, so a function
may move with its file first and get another name later. The exit code is 1 if a test has no counterpart.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

TABLE = Path(__file__).resolve().parent.parent / "tests" / "renamed_tests.txt"
TEST = re.compile(r"^(?P<file>tests/\S+?\.py)::(?P<name>[^\[]+)(?P<case>\[.*)?$", re.DOTALL)


def read_ids(path: Path) -> list[str]:
    """Return the test ids in the output of `pytest --collect-only -q`."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if TEST.match(line)]


def read_table(path: Path) -> dict[str, str]:
    """Return the new name of each old one."""
    table: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            old, _, new = line.partition(" -> ")
            table[old] = new
    return table


def names_of(test: str, table: dict[str, str]) -> Iterator[str]:
    """Yield a test's name, and its name after each rename."""
    seen: set[str] = set()
    while test not in seen:
        seen.add(test)
        yield test
        found = TEST.match(test)
        assert found is not None, test
        file, function, case = found["file"], f"{found['file']}::{found['name']}", found["case"] or ""
        if test in table:
            test = table[test]
        elif function in table and not (case and "[" in table[function]):  # a function that gained parameters
            test = table[function] + case
        elif file in table:
            test = table[file] + test.removeprefix(file)


def match(
    before: Iterable[str], after: Iterable[str], table: dict[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return the counterpart of each test, and the tests without one."""
    present, found, missing = set(after), dict[str, str](), list[str]()
    for test in before:
        known = [name for name in names_of(test, table) if name in present]
        if known:
            found[test] = known[-1]
        else:
            missing.append(test)
    return found, missing


def suggest(missing: list[str], new: list[str], table: dict[str, str]) -> Iterator[str]:
    """Yield lines for tests of which only the parameters' ids changed: as many of one function, in the same order."""
    by_function: defaultdict[str, list[str]] = defaultdict(list)
    for test in new:
        by_function[test.partition("[")[0]].append(test)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for test in missing:
        last = list(names_of(test, table))[-1]
        groups[last.partition("[")[0]].append(last)
    for function, olds in groups.items():
        if len(olds) == len(by_function[function]):
            yield from (f"{old} -> {now}" for old, now in zip(olds, by_function[function], strict=True))


def main() -> int:
    """Print the tests that have no counterpart in either direction."""
    parser = argparse.ArgumentParser(
        description="Map every test from before a restructuring to its counterpart."
    )
    parser.add_argument("before", type=Path, help="output of pytest --collect-only -q at the old commit")
    parser.add_argument("after", type=Path, help="the same at the new commit")
    parser.add_argument("--table", type=Path, default=TABLE, help="renames, one a line: OLD -> NEW")
    parser.add_argument(
        "--suggest", action="store_true", help="print lines for the table where only ids changed"
    )
    chosen = parser.parse_args()
    before, after, table = read_ids(chosen.before), read_ids(chosen.after), read_table(chosen.table)
    found, missing = match(before, after, table)
    new = [test for test in after if test not in set(found.values())]
    if chosen.suggest:
        print("\n".join(suggest(missing, new, table)))
        return 0
    for title, tests in (("without a counterpart", missing), ("new", new)):
        print(f"{len(tests)} {title}")
        print("".join(f"  {test}\n" for test in tests), end="")
    print(f"{len(found)} of {len(before)} tests have a counterpart")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
