"""Run as a script with a directory, this file trains into it, to be killed by its own test."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossbench.train import CheckpointError, DataEnded, Diverged, Run, fit
from lossbench.train.checkpoint import Checkpoint

KEY = jax.random.key(3)
DATA = {"x": np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)}
SETTINGS: dict[str, Any] = {"key": KEY, "steps": 120, "batch_size": 4, "log_every": 3}


def loss_fn(w, state, batch, key):
    noise = jax.random.normal(key, batch["x"].shape)
    return ((batch["x"] + noise - w) ** 2).mean(), ((state[0] + 1, state[1]), {"w": w[0]})


def evaluate(w, state):
    return {"norm": (w**2).sum()}


RUN = Run(loss_fn, jnp.zeros(3), optax.adam(0.1), DATA, (0, jax.random.key(9)), evaluate)


def assert_same(a, b):
    """Bit by bit, keys too."""

    def same(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)

    jax.tree.map(same, a, b)


def contents(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole():
    return fit(*RUN, **SETTINGS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "run"
    fit(*RUN, **SETTINGS, checkpoint=directory, checkpoint_every=60)
    return directory


@pytest.fixture
def interrupt(monkeypatch):
    """Return a function that lets a training save so many times and then breaks it off."""
    save = Checkpoint.save

    def after(saves):
        steps = []

        def counted(self, step, tree):
            save(self, step, tree)
            steps.append(step)
            if len(steps) == saves:
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoint, "save", counted)
        return steps

    return after


def test_an_interrupted_run_ends_as_if_it_had_never_stopped(whole, tmp_path, interrupt, capfd):
    steps = interrupt(2)
    with pytest.raises(KeyboardInterrupt):
        fit(*RUN, **SETTINGS, checkpoint=tmp_path / "new", checkpoint_every=20)
    assert steps == [21, 42]
    interrupt(-1)
    assert_same(fit(*RUN, **SETTINGS, checkpoint=tmp_path / "new", checkpoint_every=50), whole)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["102", "120", "lossbench.json"]
    assert capfd.readouterr() == ("", "")


def test_killed_at_random_moments_and_started_again(whole, tmp_path):
    seed = random.randrange(10**6)
    print("seed", seed)
    moments = random.Random(seed)
    run = tmp_path / "run"
    run.mkdir()
    for kill in range(3):
        before, end = os.listdir(run), time.monotonic() + 60
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen([sys.executable, __file__, str(run)], env=environment)
        try:
            while os.listdir(run) == before:
                assert process.poll() is None, "it ended without a save"
                assert time.monotonic() < end, "nothing was saved"
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.3))
        finally:
            process.kill()
            process.wait()
        print("kill", kill, sorted(os.listdir(run)))
    assert_same(fit(*RUN, **SETTINGS, checkpoint=tmp_path / "run"), whole)


def test_a_kill_while_the_first_file_is_written_leaves_a_usable_directory(whole, tmp_path):
    (tmp_path / "lossbench.json.draft").write_text('{"steps": 1')
    assert_same(fit(*RUN, **SETTINGS, checkpoint=tmp_path, checkpoint_every=120), whole)


def test_a_finished_run_returns_its_result_and_writes_nothing(whole, finished, monkeypatch):
    before = contents(finished)
    monkeypatch.setattr(sys.modules["lossbench.train.fit"], "_advance", None)
    assert_same(fit(*RUN, **SETTINGS, checkpoint=finished), whole)
    assert contents(finished) == before


def narrow(run):
    return run._replace(params=jnp.zeros(3, jnp.bfloat16))


OTHERS: dict[str, Any] = {
    "steps was 120, is 60": (RUN, {"steps": 60}),
    "batch_size was 4, is 5": (RUN, {"batch_size": 5}),
    "log_every was 3, is 4": (RUN, {"log_every": 4}),
    r"key was \[0, 3\], is \[0, 4\]": (RUN, {"key": jax.random.key(4)}),
    r"carry.params was float32\[3\], is bfloat16\[3\]": (narrow(RUN), {}),
    r"data\['x'\] was float32\[10, 3\], is float32\[9, 3\]": (
        RUN._replace(data={"x": DATA["x"][:9]}),
        {},
    ),
    r"history\['evaluate'\]\['norm'\] was float32\[40\], is None": (
        RUN._replace(evaluate=None),
        {},
    ),
    r"carry.opt_state\[0\].mu was float32\[3\], is None": (
        RUN._replace(optimizer=optax.sgd(0.1)),
        {},
    ),
}


@pytest.mark.parametrize("message", OTHERS)
def test_another_run_is_refused_and_named(finished, message):
    run, settings = OTHERS[message]
    before = contents(finished)
    with pytest.raises(CheckpointError, match=message):
        fit(*run, **{**SETTINGS, **settings}, checkpoint=finished)
    assert contents(finished) == before


def foreign(directory):
    (directory / "7").mkdir(parents=True)
    (directory / "7" / "thesis.tex").write_text("years of work")


def not_json(directory):
    shutil.copytree(directory.parent / "finished", directory)
    (directory / "lossbench.json").write_text("{")


def not_ours(directory):
    shutil.copytree(directory.parent / "finished", directory)
    (directory / "lossbench.json").write_text("[]")


def truncated(directory):
    shutil.copytree(directory.parent / "finished", directory)
    for path in (directory / "120").rglob("*"):
        if path.is_file() and path.name not in ("_CHECKPOINT_METADATA",):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(directory):
    shutil.copytree(directory.parent / "finished", directory)
    shutil.rmtree(directory / "120" / "default")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (foreign, "is not empty and holds no lossbench.json"),
        (not_json, "lossbench.json cannot be read"),
        (not_ours, "holds another run"),
        (truncated, "120 cannot be read .*move that folder away"),
        (emptied, "120 cannot be read .*move that folder away"),
        (lambda directory: directory.write_text("a file"), "is a file, not a directory"),
    ],
)
def test_foreign_and_damaged_directories_are_refused_and_kept(finished, tmp_path, damage, message):
    shutil.copytree(finished, tmp_path / "finished")
    damage(tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        fit(*RUN, **SETTINGS, checkpoint=tmp_path / "run")
    assert len(str(caught.value)) < 700
    assert contents(tmp_path) == before


def test_moving_a_damaged_step_away_goes_on_from_the_one_before(whole, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    shutil.move(tmp_path / "run" / "120", tmp_path / "120")
    assert_same(fit(*RUN, **SETTINGS, checkpoint=tmp_path / "run"), whole)


def test_a_diverged_run_stays_saved(tmp_path):
    def fragile(w, state, batch, key):
        return jnp.where(state == 4, jnp.nan, 1.0) * w**2, (state + 1, {})

    results = []
    for _ in range(2):
        with pytest.raises(Diverged, match="at step 4 ") as caught:
            fit(
                *RUN._replace(loss_fn=fragile, params=jnp.ones(()), state=0, evaluate=None),
                **{**SETTINGS, "steps": 9},
                checkpoint=tmp_path,
            )
        results.append(caught.value.result)
    assert_same(*results)


def test_host_batches_resume_where_they_stopped(tmp_path):
    asked = []

    def batches(end):
        def iterate(start):
            asked.append(start)
            for step in range(start, end):
                index = np.random.default_rng(step).permutation(10)[:4].astype(np.int32)
                yield {"x": DATA["x"][index], "index": index}

        return iterate

    settings = {**SETTINGS, "steps": 12}
    unbroken = fit(*RUN._replace(data=batches(12)), **settings)
    with pytest.raises(DataEnded):
        fit(*RUN._replace(data=batches(7)), **settings, checkpoint=tmp_path)
    resumed = fit(*RUN._replace(data=batches(12)), **settings, checkpoint=tmp_path)
    assert_same(resumed, unbroken)
    assert_same(fit(*RUN._replace(data=batches(12)), **settings, checkpoint=tmp_path), unbroken)
    assert asked == [0, 0, 7, 11]


def test_without_orbax_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax", None)
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"lossbench\[bench\]"):
        fit(*RUN, **SETTINGS, checkpoint=tmp_path)


def test_the_description_is_plain_json(finished):
    run = json.loads(Path(finished, "lossbench.json").read_text())
    assert run["format"] == 1
    assert run["carry"][".params"] == "float32[3]"


if __name__ == "__main__":
    fit(*RUN, **SETTINGS, checkpoint=sys.argv[1])
