"""Commands `models pack|rebuild`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli.context import console, settings_of


def add_to(group: typer.Typer) -> None:
    """Add the commands to the group `models`."""
    group.command("pack")(pack)
    group.command("rebuild")(rebuild)


def pack(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="Id of the version.")],
    folder: Annotated[Path, typer.Argument(help="New folder for the pack.")],
) -> None:
    """Write all that a version was made from into one folder.

    The pack has its checkpoint, the user's code in it, and its pinned bars. With the code and the packages that the
    checkpoint names, `tickwalk models rebuild` makes the same weights of it, without this home.

    Example: `tickwalk models pack ridge-candles-1a2b3c4d5e6f ~/packs/ridge`
    """
    from training.night.rebuild import pack_version

    made = pack_version(settings_of(context), version, folder)
    size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    console.print(f"{version}: {made} ({size / 1e6:.1f} MB)", highlight=False, markup=False, soft_wrap=True)


def rebuild(
    folder: Annotated[Path, typer.Argument(help="Folder that `tickwalk models pack` wrote.")],
) -> None:
    """Train a packed version again, and compare its weights bit by bit.

    It reads no lake and no home. A version with user code writes its project folder into the current directory, which
    should be empty. Ends with 1 if a weight differs.

    Example: `tickwalk models rebuild ~/packs/ridge`
    """
    from training.night.rebuild import rebuild_version

    found = rebuild_version(folder, Path.cwd())
    if not found.differing:
        console.print(
            f"{found.version}: the same weights, to the bit ({found.tensors} tensors)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return
    for name, difference in found.differing.items():
        console.print(f"{name}: differs by up to {difference:.3g}", highlight=False, markup=False)
    console.print(f"{found.version}: {len(found.differing)} of {found.tensors} tensors differ", markup=False)
    raise typer.Exit(1)
