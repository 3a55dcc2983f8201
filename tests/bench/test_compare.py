"""`compare`: fair budgets, right wiring, resuming, and errors that say what is wrong."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossbench import train
from lossbench.bench import compare
from lossbench.bench.errors import UsageError


def without_clock(comparison):
    saved = comparison.__dict__.copy()
    return {name: saved[name] for name in saved if name not in ("environment", "seconds")}


def test_ranks_as_it_must(comparison):
    table = comparison.to_pandas()
    assert set(table.index[:2]) == {"cross_entropy", "squared"}
    assert table.loc["cross_entropy", "mean"] > 0.8
    assert table.loc["backwards", "mean"] < 0.2
    assert table.loc["backwards", "p_value"] < 1e-3


def test_every_loss_gets_the_same_tuning_runs(comparison):
    assert {len(result.tuning) for result in comparison.results.values()} == {4}
    tried = [run["setting"] for run in comparison.results["squared"].tuning]
    assert {setting["scale"] for setting in tried} == {0.5, 2.0}
    assert len({setting["learning_rate"] for setting in tried}) == 2


def test_the_winner_of_the_validation_split_is_chosen(comparison):
    for name in ("cross_entropy", "squared"):
        result = comparison.results[name]
        best = max(np.mean(run["validation"]) for run in result.tuning)
        chosen = next(run for run in result.tuning if run["setting"] == result.chosen)
        assert np.mean(chosen["validation"]) == best


def test_divergence_freezes_the_run_and_is_marked(comparison):
    result = comparison.results["diverging"]
    assert result.diverged == [0] * 5
    assert all(step == -1 for step in comparison.results["squared"].diverged)
    assert comparison.to_pandas().loc["diverging", "diverged"] == 5
    # Frozen at the start: the curve is flat, and finite.
    assert np.ptp(result.curves("accuracy"), axis=1).tolist() == [0.0] * 5


def test_numbers_are_those_of_a_plain_run(comparison, blobs):
    """One seed of the tuned `squared`, trained by `fit` with the loss called directly."""
    chosen = dict(comparison.results["squared"].chosen)
    rate = chosen.pop("learning_rate")
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), 3)
    split_key, init_key, _ = jax.random.split(key, 3)
    splits = blobs.splits(split_key)

    def loss_fn(params, state, batch, key):
        logits = batch["x"] @ params["w"]
        error = jax.nn.softmax(logits) - jax.nn.one_hot(batch["labels"], 3)
        return jnp.mean(chosen["scale"] * jnp.sum(error**2, -1)), (state, {})

    schedule = optax.cosine_decay_schedule(rate, blobs.steps, alpha=0.01)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    result = train.fit(
        loss_fn,
        blobs.init(init_key),
        optimizer,
        splits["train"],
        key=key,
        steps=blobs.steps,
        batch_size=blobs.batch_size,
    )
    logits = np.asarray(splits["test"]["x"] @ result.params["w"])
    expected = np.mean(logits.argmax(-1) == np.asarray(splits["test"]["labels"]))
    assert comparison.results["squared"].scores("accuracy")[3] == pytest.approx(expected)


def test_interrupted_comparison_resumes(comparison, blobs, losses, options, tmp_path, monkeypatch):
    calls = []
    sweep = train.sweep

    def counted(*args, stop_at=None, **kwargs):
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(1)
        return sweep(*args, **kwargs)

    monkeypatch.setattr(train, "sweep", functools.partial(counted, stop_at=3))
    with pytest.raises(KeyboardInterrupt):
        compare(blobs, losses, out=tmp_path, **options)
    # A block cut short by the interruption is dropped, whole ones are kept.
    with (tmp_path / "runs.jsonl").open("a") as journal:
        journal.write('{"loss": "squared", "pha')
    calls.clear()
    monkeypatch.setattr(train, "sweep", counted)
    resumed = compare(blobs, losses, out=tmp_path, **options)
    assert without_clock(resumed) == without_clock(comparison)
    total = len(calls) + 3
    calls.clear()
    compare(blobs, losses, out=tmp_path, **options)
    assert calls == []
    assert total == len((tmp_path / "runs.jsonl").read_text().splitlines()) - 1


def test_folder_of_another_comparison_is_refused(blobs, losses, options, tmp_path):
    identity = {"task": "another"}
    (tmp_path / "runs.jsonl").write_text(json.dumps(identity) + "\n")
    with pytest.raises(UsageError, match=r"holds another comparison \(it differs in: task"):
        compare(blobs, losses, out=tmp_path, **options)
    assert (tmp_path / "runs.jsonl").read_text() == json.dumps(identity) + "\n"


def test_foreign_file_is_refused(blobs, losses, options, tmp_path):
    (tmp_path / "runs.jsonl").write_text("dear diary")
    with pytest.raises(UsageError, match="not a record of runs"):
        compare(blobs, losses, out=tmp_path, **options)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FileExistsError, match="takes a folder"):
        compare(blobs, losses, out=file, **options)


def test_randomness_comes_from_the_key(blobs, losses, options, comparison):
    other = compare(blobs, losses, key=jax.random.key(1), **options)
    first, second = (c.results["squared"].train_loss for c in (comparison, other))
    assert first != second


def test_a_mesh_changes_no_number(comparison, blobs, losses, options):
    meshed = compare(blobs, losses, mesh=train.make_mesh(), **options)
    for name, result in comparison.results.items():
        np.testing.assert_allclose(
            meshed.results[name].scores("nll"), result.scores("nll"), rtol=1e-5
        )


def test_loss_that_draws_randomness_gets_a_key(blobs, options):
    def noisy(key, logits, labels):
        return optax.losses.softmax_cross_entropy_with_integer_labels(
            logits + jax.random.normal(key, logits.shape), labels
        )

    task = dataclasses.replace(
        blobs, outputs=lambda p, b, key: {**blobs.outputs(p, b, key), "key": key}
    )
    found = compare(task, {"noisy": noisy}, seeds=2, tune=1, tune_seeds=1)
    assert found.results["noisy"].scores("accuracy").min() > 0.6


def wrong_output(logits, labels):
    return logits, labels


def needs_embeddings(embeddings, labels):
    return embeddings[:, 0]


def broken(logits, labels):
    return logits @ logits


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"mine": needs_embeddings}, UsageError, r"'mine' takes \(embeddings, labels\).*'blobs'"),
        ({"mine": wrong_output}, UsageError, "'mine' must return one array of floats"),
        (["cros_entropy"], UsageError, "unknown loss 'cros_entropy'; did you mean cross_entropy"),
        (["no.such.module:fn"], UsageError, "no module named 'no.such.module'"),
        (["json:nothing"], UsageError, "has no attribute 'nothing'"),
        ([], UsageError, "no losses to compare"),
        ({"mine": 3}, UsageError, "must be a function or a name"),
    ],
)
def test_unfit_losses_are_refused(blobs, given, error, message):
    with pytest.raises(error, match=message):
        compare(blobs, given, seeds=1, tune=1, tune_seeds=1)


def test_an_error_inside_a_loss_names_it(blobs):
    with pytest.raises(TypeError) as caught:
        compare(blobs, {"broken": broken}, seeds=1, tune=1, tune_seeds=1)
    assert "tracing loss 'broken' on task 'blobs'" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": 5, "grid": {"squared": {"scale": (1.0, 2.0)}}}, "do not divide"),
        ({"grid": {"sqared": {}}}, "unknown loss in grid= 'sqared'; did you mean squared"),
        ({"grid": {"squared": {"scal": (1.0,)}}}, "unknown hyper-parameter of 'squared' 'scal'"),
        ({"baseline": "nobody"}, "unknown baseline"),
        ({"seeds": 0}, "seeds must be at least 1"),
    ],
)
def test_bad_settings_are_refused(blobs, losses, options, message):
    with pytest.raises(UsageError, match=message):
        compare(blobs, losses, **options)
