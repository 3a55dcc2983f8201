"""Tasks of densities and scores: what they offer, what they measure, and that training helps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench import score
from lossbench.bench import compare, load_task
from lossbench.bench.errors import UnknownNameError, UsageError
from lossbench.bench.losses import resolve
from lossbench.bench.tasks.score import planar_mixture, sample_distance


def offered(task):
    batch = task.splits(jax.random.key(0))["validation"]
    return task.outputs(task.init(jax.random.key(1)), batch, jax.random.key(2))


def test_density_offers_an_energy_and_its_score():
    outputs = offered(load_task("density-2d", density="moons"))
    x = outputs["x"][:5]
    expected = jax.vmap(jax.grad(lambda row: -outputs["energy_fn"](row[None])[0]))(x)
    np.testing.assert_allclose(outputs["score_fn"](x), expected, rtol=1e-5, atol=1e-6)


def test_the_metrics_at_the_true_density():
    """The mixture's own energy samples it, and its score is the truth."""
    mixture = planar_mixture()
    outputs = {
        "key": jax.random.key(0),
        "x": mixture.sample(jax.random.key(1), 1000),
        "energy_fn": lambda x: -mixture.log_density(x),
        "score_fn": mixture.score,
    }
    truth = float(jax.jit(lambda key: sample_distance({**outputs, "key": key}))(outputs["key"]))
    wide = {**outputs, "energy_fn": lambda x: jnp.sum(x**2, axis=1) / 18}
    assert truth < 0.4
    assert float(jax.jit(lambda key: sample_distance({**wide, "key": key}))(outputs["key"])) > 0.7
    fisher = load_task("density-2d").metrics["Fisher divergence"]
    assert float(fisher(outputs)) == 0
    flat = fisher({**outputs, "score_fn": jnp.zeros_like})
    np.testing.assert_allclose(
        flat, np.mean(np.sum(mixture.score(outputs["x"]) ** 2, 1)), rtol=1e-5
    )


def test_training_brings_the_score_nearer():
    task = load_task("density-2d")
    # By the Fisher divergence alone: the chains of the other metric take their time.
    fisher = {"Fisher divergence": task.metrics["Fisher divergence"]}
    found = compare(
        dataclasses.replace(task, metrics=fisher, objective=next(iter(fisher)), minimized=fisher),
        ["denoising_score_matching", "sliced_score_matching"],
        grid={"denoising_score_matching": {"noise": 0.1}},
        seeds=1,
        tune=1,
        tune_seeds=1,
        steps=200,
        progress=False,
    )
    x = task.splits(jax.random.key(0))["test"]["x"]
    start = np.mean(np.sum(np.square(planar_mixture().score(x)), 1))
    for result in found.results.values():
        assert result.scores("Fisher divergence")[0] < 0.8 * start


def test_digits_density_knows_the_process_and_scale():
    task = load_task("digits-density")
    losses = resolve(["denoising_score_matching", "edm_loss"], None, task.fixed)
    assert losses[0].fixed == {"noise": task.fixed["noise"]}
    assert losses[1].fixed["sigma_data"] == 1.0
    (other,) = resolve(["edm_loss"], {"edm_loss": {"sigma_data": 0.5}}, task.fixed)
    assert other.fixed == {"sigma_data": 0.5}
    outputs = offered(task)
    values = [loss(outputs, {name: v[0] for name, v in loss.grid.items()}) for loss in losses]
    assert all(value.shape == (200,) and np.all(np.isfinite(value)) for value in values)
    # Both callables are one network: D = x + t^2 score.
    t = jnp.linspace(0.1, 10, 200)
    denoised = outputs["denoiser_fn"](outputs["x"], t)
    tweedie = score.Karras().denoised_from_score(
        outputs["score_fn"](outputs["x"], t), outputs["x"], t
    )
    np.testing.assert_allclose(denoised, tweedie, atol=1e-3)


def test_denoising_improves_on_doing_nothing():
    task = load_task("denoise-digits", noise=0.3)
    found = compare(
        task,
        ["squared_error", "absolute_error"],
        seeds=1,
        tune=1,
        tune_seeds=1,
        steps=200,
        progress=False,
    )
    # Noise of 0.3 left as it is: 10.5 decibels.
    assert all(result.scores("PSNR")[0] > 12 for result in found.results.values())


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("density-2d", {"density": "ring"}, UnknownNameError, "ring"),
        ("denoise-digits", {"noise": 0.0}, UsageError, "noise must be positive"),
    ],
)
def test_wrong_settings_are_refused(name, settings, error, message):
    with pytest.raises(error, match=message):
        load_task(name, **settings)
