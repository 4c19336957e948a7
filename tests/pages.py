"""Generated parts of the documents; `python -m tests.pages` writes them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Final

from serving.day_jobs.quality import quality_schema
from serving.monitoring.prometheus import StatusCollector
from storage.contracts.docs import describe_tables
from storage.settings import known_keys
from tests.paths import ROOT
from tests.serving.monitoring.recorder_statuses import poorly_watched, vitals


def describe_settings() -> str:
    """Return a table of every setting with its default and the docstring under its field."""
    docs = _field_docs()
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for key, default in known_keys().items():
        shown = ",".join(default) if isinstance(default, tuple) else str(default)
        lines.append(f"| `{key}` | {f'`{shown}`' if shown else 'empty'} | {docs[key]} |")
    return "\n".join(lines)


def _field_docs() -> dict[str, str]:
    """Return the docstring under each field of the settings' dataclasses, by key."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.glob("storage/settings/*.py")]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    docs: dict[str, str] = {}
    for name, text in _docs_of(classes["Settings"]).items():
        docs[name] = text
    for section in classes["Settings"].body:
        if isinstance(section, ast.AnnAssign) and isinstance(section.annotation, ast.Name):
            kind = classes.get(section.annotation.id)
            for name, text in _docs_of(kind).items() if kind else ():
                docs[f"{ast.unparse(section.target)}.{name}"] = text
    return docs


def _docs_of(kind: ast.ClassDef) -> dict[str, str]:
    docs = {}
    for field, after in zip(kind.body, kind.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
            assert isinstance(after.value, ast.Constant)
            docs[ast.unparse(field.target)] = " ".join(str(after.value.value).split())
    return docs


def describe_quality() -> str:
    """Return the tables of the fields of `tickwalk quality --json`, from its schema."""
    schema = quality_schema()["properties"]
    parts = [_fields(schema)]
    for name, part in schema.items():
        if part.get("type") == "array":
            parts += [f"## `{name}`", part["description"], _fields(part["items"]["properties"])]
    return "\n\n".join(parts)


def _fields(properties: dict[str, dict[str, str]]) -> str:
    lines = [f"| `{name}` | {value['description']} |" for name, value in properties.items()]
    return "\n".join(["| field | content |", "|---|---|", *lines]).replace("venue|", "venue\\|")


def describe_metrics() -> str:
    """Return a table of every metric that a recorder exports: name, kind, labels, and what it says."""
    lines = ["| metric | kind | labels | what it says |", "|---|---|---|---|"]
    for family in StatusCollector(lambda: vitals(instruments=poorly_watched())).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = sorted({label for sample in family.samples for label in sample.labels})
        lines.append(
            f"| `{name}` | {family.type} | {', '.join(f'`{label}`' for label in labels)} | {family.documentation} |"
        )
    return "\n".join(lines)


BLOCKS: Final[tuple[tuple[str, str, Callable[[], str]], ...]] = (
    ("docs/tables.md", "tables", describe_tables),
    ("docs/operations.md", "settings", describe_settings),
    ("docs/recorder.md", "metrics", describe_metrics),
    ("docs/quality.md", "quality", describe_quality),
)
"""Page, name of the block in it, and what it must say."""


def with_block(page: str, name: str, text: str) -> str:
    """Return a page with a block's content replaced.

    Raises:
        ValueError: the page has no such block.
    """
    begin, end = f"<!-- begin {name}: python -m tests.pages -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no block between {begin!r} and {end!r}")
    return pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)


def main() -> None:
    """Write every block into its page."""
    for path, name, make in BLOCKS:
        page = ROOT / path
        page.write_text(with_block(page.read_text(encoding="utf-8"), name, make()), encoding="utf-8")


if __name__ == "__main__":
    main()
