"""Command `judge`, its page, and the same from Python."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tickwalk
from features.leakage.perturbation import ProofResult
from serving import cli
from serving.report.night_data import read_night
from storage.settings import Settings
from training.night import preparation
from training.night.artifacts import NightArtifacts


@pytest.fixture
def _proof_of_the_night(judged: tuple[Settings, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The night has proven the features of these bars; a proof takes half of what a judgement takes."""
    proof = NightArtifacts.find(*judged).read("proof.json")
    fields = ProofResult.__dataclass_fields__
    found = ProofResult(**{name: proof[name] for name in fields})
    monkeypatch.setattr(preparation, "prove", lambda *_, **__: found)


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


@pytest.mark.usefixtures("_proof_of_the_night")
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
    assert "which are a lineage of their own" in page
    assert "judge shifted.parquet --name shifted --recipe small.toml" in page

    # The same from Python, from a table: the judgement is the same one.
    (here / "tickwalk.toml").write_text('[training]\ndevice = "cpu"\nthreads = 1\n', encoding="utf-8")
    found = tickwalk.judge(rows, recipe=str(settings.home / "small.toml"), name="shifted", home=settings.home)
    assert (found.night, found.outcome) == (name, "refused")
    assert found.report == settings.report_path(name)
    assert {"zero", "momentum", "ridge", "shifted"} == set(found.models)

    cli.main([*words, "nights", "list", "--format", "json"])
    listed = {row["night"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert listed[name]["outcome"] == "refused"
    assert listed[name]["judged"] is not None
