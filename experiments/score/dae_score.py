"""Auto-encoders capture the score: its error, energies along paths, and Metropolis sampling."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from lossbench import train
from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.bench.models import mlp
from lossbench.score import (
    GaussianMixture,
    conservativity_gap,
    denoising_autoencoder_loss,
    energy_difference,
    path_integral_metropolis,
    reconstruction_score,
)
from lossbench.transport import energy_set_loss

SIGMAS = (0.1, 0.3, 1.0)
WEIGHTS = np.array([0.4, 0.35, 0.25])
MEANS = np.array([[-1.5, 0.0], [1.0, 1.0], [1.0, -1.0]])
STDS = np.array([0.45, 0.35, 0.5])


def energy_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    """2 E|x - y| - E|x - x'| - E|y - y'|."""
    return 2 * energy_set_loss(x[None], y[None])[0]


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    """Train an auto-encoder for each sigma and seed, and judge score, energy and samples."""
    seeds, steps, batch, points, moves = (
        (3, 6000, 512, 2000, 400) if size == "full" else (1, 150, 64, 200, 30)
    )
    mixture = GaussianMixture.of(WEIGHTS, MEANS, STDS**2)
    model = mlp((2, 128, 128, 2), activation=jnp.tanh)
    data_key, seed_key, test_key, chain_key = jax.random.split(key, 4)

    def reconstruct(params: Any, sigma: jax.Array, x: jax.Array) -> jax.Array:
        return x + jnp.square(sigma) * model.apply(params, x)["logits"]

    def member(h: dict[str, jax.Array], key: jax.Array) -> train.Run:
        def loss_fn(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            recon = partial(reconstruct, params, h["sigma"])
            loss = denoising_autoencoder_loss(key, recon, batch["x"], sigma=h["sigma"])
            return jnp.mean(loss) / h["sigma"] ** 4, (state, {})

        optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps, 0.1))
        data = {"x": mixture.sample(data_key, 100 * points)}
        return train.Run(loss_fn, model.init(key), optimizer, data)

    sigmas = jnp.repeat(jnp.array(SIGMAS), seeds)
    result = train.sweep(
        member,
        {"sigma": sigmas},
        keys=jnp.tile(jax.random.split(seed_key, seeds), len(SIGMAS)),
        steps=steps,
        batch_size=batch,
        progress=False,
    )
    test = mixture.sample(test_key, points)
    truth, log_density = mixture.score(test), mixture.log_density(test)

    @jax.jit
    def judge(params: Any, sigma: jax.Array) -> dict[str, jax.Array]:
        recon = partial(reconstruct, params, sigma)
        score_fn = partial(reconstruction_score, recon, sigma=sigma)
        start = jnp.broadcast_to(jnp.asarray(MEANS[0], test.dtype), test.shape)
        start_key, walk_key = jax.random.split(chain_key)
        spread = 2 * jax.random.normal(start_key, test.shape)
        chain = partial(path_integral_metropolis, walk_key, proposal_std=0.5, num_steps=moves)
        walked, rate = chain(score_fn, spread)
        blind, _ = chain(jnp.zeros_like, spread)
        return {
            "score error": jnp.sum(jnp.square(score_fn(test) - truth)) / jnp.sum(truth**2),
            "path energy": energy_difference(score_fn, start, test, num_points=16),
            "reconstruction error": jnp.sum(jnp.square(recon(test) - test), axis=1),
            "conservativity gap": jnp.mean(conservativity_gap(score_fn, test)),
            "chains": energy_distance(walked, test),
            "blind chains": energy_distance(blind, test),
            "acceptance": jnp.mean(rate),
            "walked": walked,
        }

    judged = jax.lax.map(lambda member: judge(*member), (result.params, sigmas))
    shape = len(SIGMAS), seeds

    def spearman(values: jax.Array) -> np.ndarray:
        found = [spearmanr(-row, log_density).statistic for row in np.asarray(values)]
        return np.reshape(found, shape)

    scalars = ("score error", "conservativity gap", "chains", "blind chains", "acceptance")
    return {
        "sigma": list(SIGMAS),
        **{name: np.asarray(judged[name]).reshape(shape) for name in scalars},
        "spearman of path energy": spearman(judged["path energy"]),
        "spearman of reconstruction error": spearman(judged["reconstruction error"]),
        # Of two halves of one sample: what equal laws look like.
        "distance of equal laws": energy_distance(
            test, mixture.sample(jax.random.fold_in(test_key, 1), points)
        ),
        "data": np.asarray(test)[:500],
        "samples": np.asarray(judged["walked"])[0][:500],
        "path energy": np.asarray(judged["path energy"])[0][:500],
        "reconstruction error": np.asarray(judged["reconstruction error"])[0][:500],
        "log density": np.asarray(log_density)[:500],
    }


def holds(results: dict[str, Any]) -> bool:
    """Errors fall with sigma; path energies rank as densities do; the chains sample the data."""
    error = np.mean(results["score error"], axis=1)
    path = np.mean(results["spearman of path energy"], axis=1)[0]
    reconstruction = np.mean(results["spearman of reconstruction error"], axis=1)[0]
    return bool(
        error[0] < error[1] < error[2]
        and error[0] < 0.1
        and path > 0.95
        and path > reconstruction + 0.1
        and np.mean(results["chains"], axis=1)[0] < 0.05
    )


def plot(results: dict[str, Any]) -> Figure:
    """Draw the score's error, both candidates for an energy, and the chains' ends."""
    figure = Figure(figsize=(15, 3.8), layout="constrained")
    error, energy, other, cloud = figure.subplots(1, 4)
    for values in np.asarray(results["score error"]).T:
        error.loglog(results["sigma"], values, "o-", color="tab:blue", alpha=0.6)
    error.set(xlabel="sigma", ylabel="relative squared error of the score")
    density = np.asarray(results["log density"])
    for axes, name in ((energy, "path energy"), (other, "reconstruction error")):
        axes.plot(density, results[name], ".", markersize=2)
        correlation = np.mean(results[f"spearman of {name}"], axis=1)[0]
        axes.set(xlabel="log p(x)", title=f"{name}: Spearman {-correlation:.3f}")
    energy.set(ylabel="E(x) - E(mode), sigma = 0.1")
    other.set(ylabel="|r(x) - x|^2, sigma = 0.1", yscale="log")
    cloud.plot(*np.asarray(results["data"]).T, ".", markersize=2, label="data")
    cloud.plot(*np.asarray(results["samples"]).T, ".", markersize=2, label="Metropolis, sigma 0.1")
    cloud.legend(markerscale=4, loc="upper left")
    cloud.set(title="2-D mixture", xlim=(-3.5, 3.5), ylim=(-3, 3.5))
    return figure


EXPERIMENT = Experiment(
    paper="dae-score",
    claim=(
        "(r(x) - x) / sigma^2 of a denoising auto-encoder approaches the score as sigma falls; "
        "energies by path integrals rank points as the density does, reconstruction errors do not; "
        "Metropolis chains on them sample the data"
    ),
    run=run,
    holds=holds,
    plot=plot,
    remark=(
        "Fails in one of five demands, narrowly: at sigma = 0.1 the rank correlation of path "
        "energies is 0.943 in the mean of three seeds, not 0.95 (at 0.3 it is 0.975). The paths "
        "between modes cross empty space, where at 0.1 hardly any noised point trains the score, "
        "so energies of different modes are offset; within a mode they are right. Score error, "
        "sampling and the contrast with reconstruction errors (0.68) are as claimed."
    ),
)
