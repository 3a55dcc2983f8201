"""Tasks of densities and scores: in the plane, of digits, and denoising."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from lossbench import data, score, transport
from lossbench.bench import models
from lossbench.bench.errors import UnknownNameError, UsageError
from lossbench.bench.tasks.classification import digits
from lossbench.bench.tasks.task import Batch, Task

_PIXELS = 64
_SIZES = {"train": 5000, "validation": 1000, "test": 2000}
_WIDE = 9.0  # variance of the Gaussian that holds an energy's tails down


def planar_mixture() -> score.GaussianMixture:
    """Return four unequal Gaussians in the plane, two of them tilted."""
    tilt = np.array([[0.10, 0.06], [0.06, 0.08]])
    return score.GaussianMixture.of(
        np.array([0.4, 0.3, 0.2, 0.1]),
        np.array([[-1.0, -0.8], [1.1, 0.2], [-0.4, 1.2], [0.9, -1.3]]),
        np.stack([tilt, tilt * [[1, -1], [-1, 1]], 0.05 * np.eye(2), 0.1 * np.eye(2)]),
    )


def _sample_mixture(key: jax.Array, num: int) -> jax.Array:
    return planar_mixture().sample(key, num)


DENSITIES: Mapping[str, Callable[[jax.Array, int], jax.Array]] = {
    "rings": data.sample_rings,
    "moons": data.sample_moons,
    "checkerboard": data.sample_checkerboard,
    "mixture": _sample_mixture,
}


def _sliced(key: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Sliced 2-Wasserstein distance, by 100 directions."""
    return transport.sliced_wasserstein(key, x, y, num_projections=100)


def sample_distance(outputs: Mapping[str, Any]) -> jax.Array:
    """Return the distance of Metropolis-adjusted Langevin chains of the model to held-out points.

    As many chains as points, up to 300, started from a wide Gaussian: 120 steps of size 0.05, then
    40 of 0.01.
    """
    start_key, wide_key, fine_key, metric_key = jax.random.split(outputs["key"], 4)
    held_out = outputs["x"][:300]
    x = 1.5 * jax.random.normal(start_key, held_out.shape)

    def log_density(x: jax.Array) -> jax.Array:
        return -outputs["energy_fn"](x)

    for key, size, steps in ((wide_key, 0.05, 120), (fine_key, 0.01, 40)):
        x, _ = score.metropolis_langevin(key, log_density, x, step_size=size, num_steps=steps)
    return _sliced(metric_key, x, held_out)


def density_2d(*, density: str = "mixture") -> Task:
    """A density in the plane, learned as the energy of a small network.

    `density` is `rings`, `moons`, `checkerboard` or `mixture` (four Gaussians, whose score is
    known). A loss may take `key`, the points `x` (n, 2), `energy_fn` (n, 2) -> (n,) and `score_fn`
    (n, 2) -> (n, 2), minus its gradient. Judged by the sliced Wasserstein distance between samples
    of the model and held-out points; for the mixture also by the Fisher divergence.
    """
    if density not in DENSITIES:
        raise UnknownNameError("density", density, DENSITIES)
    draw = DENSITIES[density]
    model = models.mlp((2, 64, 64, 1), activation=jax.nn.silu)

    def energy(params: Any, x: jax.Array) -> jax.Array:
        tails = jnp.sum(jnp.square(x), axis=1) / (2 * _WIDE)
        return model.apply(params, x)["logits"][:, 0] + tails

    def splits(key: jax.Array) -> dict[str, Batch]:
        train_key, validation_key = jax.random.split(key)
        keys = {"train": train_key, "validation": validation_key, "test": jax.random.key(0)}
        return {split: {"x": draw(keys[split], num)} for split, num in _SIZES.items()}

    def outputs(params: Any, batch: Batch, key: jax.Array) -> dict[str, Any]:
        # Partials are pytrees: the parameters go into a loss as its arrays do.
        energy_fn = Partial(energy, params)
        score_fn = Partial(score.energy_score, energy_fn)
        return {"key": key, "x": batch["x"], "energy_fn": energy_fn, "score_fn": score_fn}

    def fisher_divergence(outputs: Mapping[str, Any]) -> jax.Array:
        truth = planar_mixture().score
        return 2 * jnp.mean(score.explicit_score_matching(outputs["score_fn"], truth, outputs["x"]))

    metrics: dict[str, Callable] = {"sliced W2": sample_distance}
    if density == "mixture":
        metrics["Fisher divergence"] = fisher_divergence
    return Task(
        name="density-2d",
        description=f"energy of a density in the plane: {density}",
        splits=splits,
        init=model.init,
        outputs=outputs,
        metrics=metrics,
        objective="sliced W2",
        minimized=tuple(metrics),
        settings={"density": density, **_SIZES, "model": "energy MLP 2-64-64-1"},
        batch_size=128,
        learning_rates=(1e-3, 2e-2),
    )


def digits_density() -> Task:
    """The digits' density, learned as a denoiser over noise levels from 0.02 to 20.

    Pixels are divided by one scale to standard deviation 1. A loss may take `key`, the images `x`
    (n, 64), `denoiser_fn(x, sigma)` and the score `score_fn(x, t)` that it stands for, of the
    process `score.Karras`. Judged by the sliced Wasserstein distance between EDM samples (18 steps)
    and held-out digits, as many of either.
    """
    images = digits()
    process = score.Karras(t_min=0.02, t_max=20.0)
    sigmas = score.karras_levels(jnp.linspace(1, 0, 18), sigma_min=0.02, sigma_max=20.0)
    model = models.mlp((_PIXELS + 3, 256, 256, _PIXELS), activation=jax.nn.silu)

    def network(params: Any, x: jax.Array, level: jax.Array) -> jax.Array:
        time = jnp.stack([level, jnp.sin(4 * level), jnp.cos(4 * level)], axis=1)
        return model.apply(params, jnp.concatenate([x, time], axis=1))["logits"]

    def denoise(params: Any, x: jax.Array, sigma: jax.Array) -> jax.Array:
        return score.edm_denoised(partial(network, params), x, sigma, sigma_data=1.0)

    def score_at(params: Any, x: jax.Array, t: jax.Array) -> jax.Array:
        return process.score_from_denoised(denoise(params, x, t), x, t)

    def splits(key: jax.Array) -> dict[str, Batch]:
        return {split: {"x": rows["x"]} for split, rows in images.splits(key).items()}

    def outputs(params: Any, batch: Batch, key: jax.Array) -> dict[str, Any]:
        return {
            "key": key,
            "x": batch["x"],
            "denoiser_fn": Partial(denoise, params),
            "score_fn": Partial(score_at, params),
        }

    def sample_distance(outputs: Mapping[str, Any]) -> jax.Array:
        start_key, sample_key, metric_key = jax.random.split(outputs["key"], 3)
        start = sigmas[0] * jax.random.normal(start_key, outputs["x"].shape)
        samples = score.edm_sample(sample_key, outputs["denoiser_fn"], start, sigmas)
        return _sliced(metric_key, samples, outputs["x"])

    return Task(
        name="digits-density",
        description="density of the handwritten digits, by a denoiser",
        splits=splits,
        init=model.init,
        outputs=outputs,
        metrics={"sliced W2": sample_distance},
        objective="sliced W2",
        minimized=("sliced W2",),
        settings={
            **{split: images.settings[split] for split in ("train", "validation", "test")},
            "noise levels": [0.02, 20.0],
            "model": f"denoiser MLP {_PIXELS}+3-256-256-{_PIXELS}",
        },
        fixed={"noise": process, "sigma_data": 1.0},
        learning_rates=(3e-4, 1e-2),
    )


def denoise_digits(*, noise: float = 0.3) -> Task:
    """Digits with pixels in [0, 1] and normal noise of standard deviation `noise`, to be removed.

    A loss may take `predictions` and `targets`, (n, 64) each; the noise is drawn anew in every
    step. Judged by the peak signal-to-noise ratio in decibels.
    """
    if not noise > 0:
        raise UsageError(f"noise must be positive, got {noise}")
    from sklearn.datasets import load_digits

    raw = load_digits().data.astype(np.float32) / 16
    order = np.random.default_rng(0).permutation(len(raw))
    test, rest = jnp.asarray(raw[order[:797]]), jnp.asarray(raw[order[797:]])
    model = models.mlp((_PIXELS, 256, _PIXELS))

    def splits(key: jax.Array) -> dict[str, Batch]:
        shuffled = jax.random.permutation(key, rest)
        rows = {"train": shuffled[200:], "validation": shuffled[:200], "test": test}
        return {split: {"targets": images} for split, images in rows.items()}

    def outputs(params: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        noise_key, loss_key = jax.random.split(key)
        targets = batch["targets"]
        noised = targets + noise * jax.random.normal(noise_key, targets.shape)
        predictions = noised + model.apply(params, noised)["logits"]
        return {"predictions": predictions, "targets": targets, "key": loss_key}

    def psnr(outputs: Mapping[str, jax.Array]) -> jax.Array:
        error = jnp.mean(jnp.square(outputs["predictions"] - outputs["targets"]))
        return -10 * jnp.log10(error)

    return Task(
        name="denoise-digits",
        description=f"digits with noise of standard deviation {noise:g} removed",
        splits=splits,
        init=model.init,
        outputs=outputs,
        metrics={"PSNR": psnr},
        objective="PSNR",
        settings={
            "noise": noise,
            "train": 800,
            "validation": 200,
            "test": 797,
            "model": f"residual MLP {_PIXELS}-256-{_PIXELS}",
        },
        learning_rates=(3e-4, 1e-2),
    )


TASKS: dict[str, Callable[..., Task]] = {
    "density-2d": density_2d,
    "denoise-digits": denoise_digits,
    "digits-density": digits_density,
}
