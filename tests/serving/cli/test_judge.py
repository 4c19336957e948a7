"""Command `judge` and its page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving import cli
from serving.report.night_data import read_night
from storage.settings import Settings
from training.night.artifacts import NightArtifacts


def peeking(settings: Settings, night: str) -> pa.Table:
    """Return the labels of all steps with some noise: about what a model with a wrong shift predicts."""
    data = NightArtifacts.find(settings, night).read_data()
    noise = np.random.default_rng(0).standard_normal(data.labels.label.shape)
    value = data.labels.label.numpy() + 0.3 * noise
    instruments, steps = value.shape
    return pa.table(
        {
            "instrument": np.repeat(data.panel.instruments, steps),
            "ts_open": pa.array(np.tile(data.panel.ts_open_ns, instruments), pa.timestamp("ns", "UTC")),
            "prediction": value.flatten(),
        }
    )


@pytest.mark.usefixtures("proven")
def test_a_file_that_peeks_is_caught_by_name(
    judged: tuple[Settings, str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, night = replace(judged[0], home=here / "home"), judged[1]
    shutil.copytree(judged[0].home, settings.home)
    rows = peeking(settings, night)
    pq.write_table(rows, here / "shifted.parquet")
    words = ["--home", str(settings.home), "--set", "training.device=cpu", "--set", "training.threads=1"]
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "judge", "shifted.parquet", "--recipe", str(settings.home / "small.toml")])
    out, err = capsys.readouterr()
    assert end.value.code == 1
    assert "failed:   leak: abrupt end of skill" in out
    assert "verdict:  refused: failed: leak: abrupt end of skill" in out
    assert f"{rows.num_rows:,} rows:" in " ".join(err.split())
    name = next(line.split()[1] for line in out.splitlines() if line.startswith("judged:"))

    facts = read_night(settings, name)
    page = settings.report_path(name).read_text(encoding="utf-8")
    assert facts.outside is not None
    assert f'<td class="num">{facts.outside["folds"][0]["test"]:,}</td>' in page
    assert "Refused: <b>shifted</b>" in page
    assert "leak: abrupt end of skill" in page
    assert "&lt; 4.000" in page
    assert "Only one seed" not in page
    assert "which are a lineage of their own" in page
    assert "judge shifted.parquet --name shifted --recipe small.toml" in page

    cli.main([*words, "nights", "list", "--format", "json"])
    listed = {row["night"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert listed[name]["outcome"] == "refused"
    assert listed[name]["judged"] is not None
