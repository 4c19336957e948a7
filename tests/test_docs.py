"""The commands, targets, settings, files, links and queries named in the documents exist."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main

from serving.cli import app
from storage.contracts.tables import STATUSES
from storage.lake.lake import Lake
from storage.settings import Settings, known_keys
from tests.pages import BLOCKS, ROOT, with_block

ROOMS: Final = ("storage", "ingest", "features", "training", "serving", "tickwalk", "dags")
PAGES: Final = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
)
_TREES: Final = (*ROOMS, "docs", "tests", "docker", ".ci")


@cache
def read(page: str) -> str:
    """Return a page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


def code_in(page: str) -> Iterator[str]:
    """Yield what a page sets as code: each line of its fences, and each span within its sentences."""
    for part in re.split(r"(^```.*?^```$)", read(page), flags=re.DOTALL | re.MULTILINE):
        if part.startswith("```"):
            yield from part.splitlines()[1:-1]
        else:
            yield from re.findall(r"`([^`\n]+)`", part)


def fences(page: str, language: str) -> list[str]:
    """Return the blocks of one language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), flags=re.DOTALL | re.MULTILINE)


@cache
def sources() -> dict[str, str]:
    """Return the source of every module of every room, by path below the root."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
    }


@cache
def tree(path: str) -> ast.Module:
    """Return a module, parsed."""
    return ast.parse(sources()[path], path)


def text_of(node: ast.expr) -> str:
    """Return a string constant, or an f-string with `X` for its values; empty where it is neither."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@cache
def hints() -> list[tuple[str, str]]:
    """Return where and what: the hints of errors, and all that other strings of the code set as code."""
    found: list[tuple[str, str]] = []
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                strings = [item for item in ast.walk(node.value) if isinstance(item, ast.expr)]
                found += [(f"{path}:{node.value.lineno}", text) for text in map(text_of, strings) if text]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                spans = re.findall(r"`([^`\n]+)`", node.value)
                found += [(f"{path}:{node.lineno}", span) for span in spans]
    return found


# Commands and targets.


@cache
def command_line() -> Any:
    """Return the command that `tickwalk` is."""
    return typer.main.get_command(app)


def commands_in(text: str) -> list[list[str]]:
    """Return the words after each `tickwalk` that begins a command; brackets around optional words are taken away."""
    parts = re.split(r"(?:^|: |, |or |[/`])tickwalk (?=[a-z-])", text)[1:]
    ends = [re.split("[`|;&]", part)[0].split() for part in parts]
    return [[re.sub(r"[\[\],]", "", word) for word in words] for words in ends]


def misuse(words: list[str]) -> str:
    """Return what is wrong with the words after `tickwalk`: an unknown command or option; or nothing."""
    command, path = command_line(), "tickwalk"
    rest = iter(words)
    for word in rest:
        if word in ("--help", "-h"):
            continue
        if word.startswith("--"):
            found = [item for item in command.params if word in (*item.opts, *item.secondary_opts)]
            if not found:
                return f"{path} has no option {word}"
            if not getattr(found[0], "is_flag", False):
                next(rest, None)
        elif hasattr(command, "commands"):
            name = word.strip(".,:)")
            if name not in command.commands:
                return f"{path} has no command {name}"
            command, path = command.get_command(None, name), f"{path} {name}"
    return ""


def targets() -> set[str]:
    """Return the targets of the Makefile that a person can call."""
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def targets_in(line: str) -> list[str]:
    """Return the targets of a line of code that is a call of `make`."""
    found = re.fullmatch(r"make((?: [a-z]+)+)(?: [A-Z]+=\S+)?(?:\s+#.*)?", line)
    return found[1].split() if found else []


def test_the_commands_in_the_documents_exist() -> None:
    used = [(page, words) for page in PAGES for line in code_in(page) for words in commands_in(line)]
    assert len(used) > 40
    assert [f"{page}: {wrong}" for page, words in used if (wrong := misuse(words))] == []


def test_the_commands_in_hints_and_docstrings_exist() -> None:
    used = [(where, words) for where, text in hints() for words in commands_in(text)]
    assert len(used) > 15
    assert [f"{where}: {wrong}" for where, words in used if (wrong := misuse(words))] == []


def test_the_make_targets_in_the_documents_and_hints_exist() -> None:
    used = [(page, target) for page in PAGES for line in code_in(page) for target in targets_in(line)]
    for where, text in hints():
        used += [(where, target) for target in (*targets_in(text), *re.findall(r": make ([a-z]+)", text))]
    assert len(used) > 15
    assert [f"{where}: make {target}" for where, target in used if target not in targets()] == []


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("replay FILE", ""),
        ("--home var sql SELECT --format json", ""),
        ("airflow up --unpause", ""),
        ("airflow sideways", "tickwalk airflow has no command sideways"),
        ("replai FILE", "tickwalk has no command replai"),
        ("nightly --recip candles", "tickwalk nightly has no option --recip"),
    ],
)
def test_a_wrong_command_is_named(words: str, wrong: str) -> None:
    assert misuse(words.split()) == wrong


def test_commands_are_found_where_people_write_them() -> None:
    assert commands_in(
        "make one with: tickwalk replay FILE, tickwalk import candles FILE, or tickwalk record"
    ) == [
        ["replay", "FILE"],
        ["import", "candles", "FILE"],
        ["record"],
    ]
    assert commands_in("install tickwalk into an environment of its own") == []


# Settings, warnings, versions.


@pytest.mark.parametrize(
    ("page", "name", "make"), BLOCKS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_generated_part_of_a_page_is_current(page: str, name: str, make: Callable[[], str]) -> None:
    assert read(page) == with_block(read(page), name, make()), "run: .venv/bin/python -m tests.pages"


def warnings() -> dict[str, str]:
    """Return the text of every event that is logged as a warning or worse, with where."""
    found = {}
    for path in sources():
        for node in ast.walk(tree(path)):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="logger"), attr="warning" | "error" | "exception"),
                    args=[event, *_],
                ):
                    found[text_of(event)] = f"{path}:{node.lineno}"
    return found


def test_every_warning_has_a_section_in_operations() -> None:
    _, _, section = read("docs/operations.md").partition("\n## Warnings\n")
    described = set(re.findall(r"^### (.+)$", section, re.MULTILINE))
    logged = warnings()
    assert len(logged) > 5
    assert {event: where for event, where in logged.items() if event not in described} == {}
    assert described - set(logged) == set(), "docs/operations.md describes warnings that nothing logs"


def test_every_error_is_in_operations() -> None:
    errors = {node.name for node in tree("storage/errors.py").body if isinstance(node, ast.ClassDef)}
    described = set(re.findall(r"^\| `(\w+Error)` \|", read("docs/operations.md"), re.MULTILINE))
    assert described == errors - {"TickwalkError"}


def rows_below(page: str, heading: str) -> list[str]:
    """Return the first cell of each row of the first table below a heading, without its quotes."""
    _, _, section = read(page).partition(f"\n### {heading}\n")
    return re.findall(r"^\| `([^`]+)` \|", section.split("\n#")[0], re.MULTILINE)


def test_every_bar_status_is_explained_in_the_order_of_the_code() -> None:
    assert tuple(rows_below("docs/tables.md", "Status")) == STATUSES
    assert tuple(rows_below("docs/tables.md", "Evidence")) == STATUSES


def test_the_causes_in_the_tables_page_are_those_of_the_code() -> None:
    """`N` stands for a number."""
    causes = rows_below("docs/tables.md", "Causes")
    strings = set()
    for path in (path for path in sources() if path.startswith("ingest/")):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
                strings.add(node.value.decode("latin-1"))
            elif isinstance(node, ast.JoinedStr | ast.Constant):
                strings.add(text_of(node))
    said = "\n".join(strings)
    assert len(causes) > 10
    assert [cause for cause in causes if cause.replace(" N", " X") not in said] == []


def test_the_changelog_has_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert re.search(rf"^## {re.escape(version)} \(", read("CHANGELOG.md"), re.MULTILINE)


# Files, links and names.


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: str) -> Iterator[str]:
    """Yield the relative links of a page that lead nowhere."""
    prose = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (
            anchor and anchor not in anchors(target.resolve().relative_to(ROOT).as_posix())
        ):
            yield link


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    assert list(broken_links(page)) == []


def test_no_page_is_an_orphan() -> None:
    """Every page can be reached from the README by links."""
    seen, todo = {"README.md"}, ["README.md"]
    while todo:
        page = todo.pop()
        for link in re.findall(r"\]\(([^)\s#]+)", read(page)):
            target = ((ROOT / page).parent / link).resolve()
            name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else ""
            if name.endswith(".md") and name not in seen and target.exists():
                seen.add(name)
                todo.append(name)
    assert [page for page in PAGES if page not in seen and not page.startswith("docs/adr/")] == []


def missing_files(text: str) -> list[str]:
    """Return the files below our own folders that a text names and that do not exist; `NAME` is a placeholder."""
    names = re.findall(rf"(?<![\w/.<-])((?:{'|'.join(map(re.escape, _TREES))})/[\w./-]*\w)(?![\w<*{{])", text)
    return [name for name in names if not any(char.isupper() for char in name) and not exists(name)]


def exists(name: str) -> bool:
    """Say whether a file exists as named, as a module without its ending, or as the number of a decision."""
    decision = re.fullmatch(r"docs/adr/(\d{4})", name)
    if decision:
        return any((ROOT / "docs/adr").glob(f"{decision[1]}-*.md"))
    return (ROOT / name).exists() or (ROOT / f"{name}.py").exists()


def test_the_documents_name_no_file_that_does_not_exist() -> None:
    assert [
        f"{page}: {name}" for page in PAGES for line in code_in(page) for name in missing_files(line)
    ] == []


def test_the_code_names_no_document_that_does_not_exist() -> None:
    others = ("Makefile", "Dockerfile", "docker-compose.yml", "pyproject.toml", ".ci/run")
    texts = sources() | {name: (ROOT / name).read_text(encoding="utf-8") for name in others}
    used = [(path, name) for path, text in texts.items() for name in re.findall(r"docs/[\w/.-]*\w", text)]
    assert len(used) > 5
    assert [f"{path}: {name}" for path, name in used if not exists(name)] == []


def test_a_file_that_does_not_exist_is_named() -> None:
    assert missing_files("see storage/lake/lake.py, storage/lakes.py and docs/adr/0999") == [
        "storage/lakes.py",
        "docs/adr/0999",
    ]


def test_python_in_the_documents_imports_what_exists() -> None:
    blocks = [(page, block) for page in PAGES for block in fences(page, "python")]
    assert blocks
    for page, block in blocks:
        for node in ast.walk(ast.parse(block, page)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in ROOMS:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{page}: {alias.name}"


def test_settings_in_toml_blocks_exist() -> None:
    """A block with a `base` is a recipe, and is tried as one; any other is a settings file."""
    for page in PAGES:
        for block in fences(page, "toml"):
            table = tomllib.loads(block)
            if "base" in table:
                continue
            flat = {f"{section}.{key}" for section, keys in table.items() for key in keys}
            assert flat <= set(known_keys()), f"{page}: {flat - set(known_keys())}"


def test_recipes_in_the_documents_can_be_read(tmp_path: Path) -> None:
    from training.recipe import get_recipe

    recipes = [block for page in PAGES for block in fences(page, "toml") if "base =" in block]
    assert len(recipes) >= 2
    for number, block in enumerate(recipes):
        path = tmp_path / f"{number}.toml"
        path.write_text(block, encoding="utf-8")
        assert get_recipe(str(path)).name == tomllib.loads(block)["name"]


def test_queries_in_the_documents_run(tmp_path: Path) -> None:
    """Against a lake without rows: names of tables and columns, and the syntax, are what is checked."""
    lines = [line for page in PAGES for line in code_in(page) if line.startswith("tickwalk sql ")]
    queries = {words[2] for line in lines if (words := shlex.split(line))[2] != "..."}
    assert len(queries) > 5
    with Lake.open(Settings(home=tmp_path)) as lake:
        for query in sorted(queries):
            assert lake.query(query).num_columns > 0


# Decisions.


def test_a_decision_says_what_was_measured() -> None:
    pages = [page for page in PAGES if page.startswith("docs/adr/")]
    assert [Path(page).name[:4] for page in pages] == [f"{n:04d}" for n in range(1, len(pages) + 1)]
    for page in pages:
        assert read(page).startswith(f"# {Path(page).name[:4]}: "), page
        for section in ("Question", "Decision", "Measured", "Rejected", "Consequences"):
            assert f"\n## {section}\n" in read(page), f"{page} lacks a section {section}"
