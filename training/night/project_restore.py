"""Restoration of the user's project folder from a checkpoint, so that a version can be rebuilt without it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from storage.atomic_write import write_atomic
from storage.errors import ProjectError
from storage.project import RECIPES as FOLDER
from storage.project import unpack_project
from training.models.checkpoint import stored_project
from training.recipe import RECIPES


def restore_project(checkpoint: Path, root: Path) -> Path:
    """Write the project folder that a checkpoint stores, with the recipe of its training, and return the folder.

    Args:
        checkpoint: folder of the checkpoint.
        root: directory that gets the folder `tickwalk_project`.

    Raises:
        CheckpointError: there is no checkpoint, it uses no user code, or a file is missing or damaged.
        ProjectError: the directory has a project with other sources, or another recipe of that name.
    """
    stamp, archive = stored_project(checkpoint)
    project = unpack_project(archive, root)
    if project.code != stamp["project"]:
        raise ProjectError(f"the stored project has hash {project.code[:12]}, not {stamp['project'][:12]}")
    recipe = stamp["recipe"]
    if recipe["name"] not in RECIPES:
        path = project.folder / FOLDER / f"{recipe['name']}.toml"
        text = "".join(f"{line}\n" for line in recipe_lines(recipe)).encode()
        if path.exists() and path.read_bytes() != text:
            raise ProjectError(f"{path} exists, with other content", hint="name an empty directory")
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, text)
    return project.folder


def recipe_lines(plain: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a TOML file that gives every key of a recipe, so that its base does not matter.

    TOML has no null: a key without a value is left out, which is its default in every built-in recipe.
    """
    yield f'base = "{next(iter(RECIPES))}"'
    tables = {key: value for key, value in plain.items() if isinstance(value, Mapping)}
    yield from _pairs({key: value for key, value in plain.items() if key not in tables})
    for name, table in tables.items():
        yield ""
        yield f"[{name}]"
        yield from _pairs(table)


def _pairs(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if value is not None:
            yield f"{key} = {json.dumps(value)}"  # texts, numbers, booleans and lists are written as in JSON
