"""The notebook runs in a kernel of its own, beside a recorder on the simulated venue, and harms it in nothing."""

from __future__ import annotations

import ast
import asyncio
import os
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from ingest.simulator.venue import SimulatedVenue
from storage.lake.lake import Lake
from storage.settings import load_settings
from tests.drills.homes import journalled_prints, stored_prints
from tests.drills.running import live_market, port_of, quick, running
from tests.ingest.simulator.clients import BY_NAME
from tests.paths import ROOT
from tests.patience import HANG_S
from tests.tickwalk.conftest import unpack_home

NOTEBOOK = ROOT / "docs" / "notebooks" / "first_look.ipynb"
COINS = ("HYPE", "DOGE")
"""Of the recorder; the home has no rows of them, so no gap since then is filled with blind bars."""


def execute(folder: Path, home: Path) -> nbformat.NotebookNode:
    """Run the notebook on a home; a cell that fails is raised here."""
    page = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        page, timeout=HANG_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    variables = os.environ | {"PYTHONPATH": str(ROOT), "TICKWALK_HOME": str(home), "IPYTHONDIR": str(folder)}
    variables["OMP_NUM_THREADS"] = "1"  # torch's threads would spin
    done: nbformat.NotebookNode = client.execute(env=variables)
    return done


def shown(page: nbformat.NotebookNode) -> list[str]:
    """Return what each code cell printed and showed, as text."""
    texts = []
    for cell in page.cells:
        if cell.cell_type == "code":
            parts = [item.get("text") or item["data"]["text/plain"] for item in cell.outputs]
            texts.append("".join(parts))
    return texts


class Cells:
    """The notebook's code cells, run in this process; each shows what it prints and its last expression."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {}

    def show(self, source: str) -> str:
        """Run one cell; return what it shows."""
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        with redirect_stdout(StringIO()) as printed:
            exec(compile(tree, str(NOTEBOOK), "exec"), self._names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), self._names)
                print("" if value is None else repr(value), end="")
        return printed.getvalue()


def committed(home: Path, since_ns: int = 0, until_ns: int = 2**62) -> dict[str, int]:
    """Return how many prints and batches the recorder's commits of a time brought."""
    with Lake.open(load_settings(overrides={"home": home}, environ={}), read_only=True) as lake:
        rows = lake.query(
            "SELECT count(*) AS trades, count(DISTINCT batch) AS batches FROM trades "
            "WHERE journal = 'beside' AND ts_ingested_ns BETWEEN ? AND ?",
            [since_ns, until_ns],
        )
    return dict(rows.to_pylist()[0])


@pytest.mark.parametrize("where", ["here", pytest.param("in a kernel", marks=pytest.mark.drill)])
async def test_the_notebook_runs_beside_a_recorder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    home = unpack_home(tmp_path)
    settings = load_settings(overrides={"home": home}, environ={})
    async with SimulatedVenue(live_market(coins=tuple(BY_NAME), activity=2.0), clock="wall") as venue:
        record = {"coins": COINS, "channels": ("trades",), "commit_s": 1.0}
        async with running(
            quick(settings, port_of(venue), record=record, bars={"widths": ("1m",)}), name="beside"
        ) as at_work:
            await at_work.until(lambda vitals: vitals.commit_age_s is not None)
            began_ns = time.time_ns()
            if where == "here":
                monkeypatch.setenv("TICKWALK_HOME", str(home))
                cells = Cells()
                first, *others = (
                    cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"
                )
                texts = [await asyncio.to_thread(cells.show, first)]
                trades = at_work.vitals.trades  # and a commit while the notebook holds the home open
                await at_work.until(lambda vitals: vitals.trades > trades and vitals.unsent_batches == 0)
                texts += [await asyncio.to_thread(cells.show, source) for source in others]
            else:
                texts = shown(await asyncio.to_thread(execute, tmp_path, home))
            ended_ns = time.time_ns()
            await at_work.until(
                lambda vitals: (
                    vitals.commit_age_s is not None
                    and time.time_ns() - vitals.commit_age_s * 1e9 > ended_ns + 1e9
                )
            )

    assert len(texts) == 12
    assert "hyperliquid|perp|BTC" in texts[1]
    assert texts[5] == "(160, 320)"
    assert texts[6].startswith("'320 printed bars")
    assert "instruments x bars x features" in texts[7]
    assert "refused" in texts[8]
    assert "FAIL ic" in texts[9]
    assert texts[10].startswith("'mlp-tiny-")

    # The recorder committed meanwhile and afterwards, lost nothing, and its tables hold what its journal has.
    assert at_work.recording is not None
    during, afterwards, whole = (committed(home, *span) for span in ((began_ns, ended_ns), (ended_ns,), ()))
    assert during["batches"] > 0
    assert afterwards["batches"] > 0
    assert whole["trades"] == at_work.recording.counts.trades > 0
    assert (at_work.vitals.lost_frames, at_work.vitals.quarantined) == (0, 0)
    assert {key for key in stored_prints(settings) if key[0] in COINS} == journalled_prints(
        settings.journal_dir / "beside"
    )
