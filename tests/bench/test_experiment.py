"""Experiments: verdicts that can go either way, their files, and the table."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from lossbench.bench import Experiment, reproduce
from lossbench.bench.errors import UnknownNameError, UsageError
from lossbench.bench.experiment import checkout, load_experiment, report
from lossbench.bench.papers import papers

SOURCE = """
import jax
from matplotlib.figure import Figure
from lossbench.bench import Experiment

def run(key, size):
    return {"mean": jax.random.normal(key, (8,)).mean(), "curve": [1.0, 2.0]}

EXPERIMENT = Experiment(
    paper="mine", claim="the mean is below BOUND", run=run,
    holds=lambda results: results["mean"] < BOUND, plot=lambda results: Figure(),
    reported={"mean": 0.0},
)
"""


@pytest.mark.parametrize(("bound", "holds"), [(10.0, True), (-10.0, False)])
def test_a_verdict_can_go_either_way(tmp_path, bound, holds):
    file = tmp_path / "mine.py"
    file.write_text(f"BOUND = {bound}\n{SOURCE}")
    experiment, path = load_experiment(str(file))
    verdict = reproduce(experiment, size="full", folder=tmp_path / "out")
    assert path == file
    assert verdict["holds"] is holds
    written = json.loads((tmp_path / "out" / "mine.json").read_text())
    assert written == json.loads(json.dumps(verdict))
    assert written["measured"]["curve"] == [1.0, 2.0]
    assert written["size"] == "full"
    assert set(written["environment"]) >= {"jax", "device", "created"}
    assert (tmp_path / "out" / "mine.png").read_bytes().startswith(b"\x89PNG")
    table = report(tmp_path / "out")
    assert ("**does not hold**" in table) is not holds
    assert f"{int(holds)} of 1 claims hold" in table


def test_values_become_json():
    experiment = Experiment(
        paper="p",
        claim="c",
        run=lambda key, size: {
            "nan": jnp.float32(jnp.nan),
            "array": jnp.array([[1.0, jnp.inf]]),
            "count": np.int64(3),
            "name": "x",
            "nested": {"flag": np.True_},
        },
        holds=lambda results: True,
        plot=lambda results: Figure(),
    )
    measured = reproduce(experiment, size="smoke")["measured"]
    assert measured == {
        "nan": None,
        "array": [[1.0, None]],
        "count": 3,
        "name": "x",
        "nested": {"flag": True},
    }
    json.dumps(measured, allow_nan=False)


def test_a_smoke_run_decides_nothing(tmp_path):
    (tmp_path / "mine.py").write_text(f"BOUND = 10.0\n{SOURCE}")
    experiment, _ = load_experiment(str(tmp_path / "mine.py"))
    reproduce(experiment, size="smoke", folder=tmp_path / "out")
    assert "| smoke run |" in report(tmp_path / "out")
    assert "0 of 0 claims" in report(tmp_path / "out")


def test_what_is_not_there_says_so(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no experiment at"):
        load_experiment(str(tmp_path / "nothing.py"))
    with pytest.raises(UnknownNameError, match="unknown paper 'com-sum'; did you mean comp-sum"):
        load_experiment("com-sum")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UsageError, match="defines no EXPERIMENT"):
        load_experiment(str(tmp_path / "empty.py"))
    with pytest.raises(FileNotFoundError, match="no results in"):
        report(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="inside a checkout"):
        checkout()


def test_unknown_size(tmp_path):
    (tmp_path / "mine.py").write_text(f"BOUND = 1.0\n{SOURCE}")
    experiment, _ = load_experiment(str(tmp_path / "mine.py"))
    with pytest.raises(UnknownNameError, match="unknown size 'ful'; did you mean full"):
        reproduce(experiment, size="ful")


@pytest.mark.parametrize("slug", [paper.slug for paper in papers()])
def test_every_paper_has_an_experiment_that_runs(slug, tmp_path):
    experiment, path = load_experiment(slug)
    assert experiment.paper == slug
    assert path.is_file()
    verdict = reproduce(experiment, size="smoke", folder=tmp_path)
    json.dumps(verdict, allow_nan=False)
    numbers = jax.tree.leaves(verdict["measured"])
    assert numbers
    assert all(value is not None for value in numbers)
    assert (tmp_path / f"{slug}.png").stat().st_size > 5000
