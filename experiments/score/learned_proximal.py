"""Laplace data in Gaussian noise: what squared, absolute and proximal matching losses learn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from matplotlib.figure import Figure

from lossbench import train
from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.score import (
    InputConvexParams,
    input_convex_init,
    input_convex_potential,
    learned_prior,
    proximal_matching_loss,
    proximal_operator,
)

METHODS = ("squared", "absolute", "proximal matching", "proximal matching to 0.1")
# The absolute error for 2000 steps, then proximal matching for 4000, in equal stages.
PRETRAIN, TOTAL = 2000, 6000
WIDTHS = {
    "proximal matching": (1.0, 0.6, 0.4, 0.3),
    "proximal matching to 0.1": (0.5, 0.4, 0.3, 0.2, 0.1),  # the paper's
}
RATES = {
    "proximal matching": (1e-3, 1e-3, 3e-4, 3e-4),
    "proximal matching to 0.1": (1e-3, 3e-4, 3e-4, 1e-4, 1e-4),
}
BATCH = 1000


def potential(params: InputConvexParams, y: jax.Array) -> jax.Array:
    return input_convex_potential(params, y, sharpness=10.0)


def staged(table: dict[str, tuple[float, ...]], method: jax.Array, step: jax.Array) -> jax.Array:
    """The entry of a method's table at a step."""

    def now(stages: tuple[float, ...]) -> jax.Array:
        stage = (step - PRETRAIN) * len(stages) // (TOTAL - PRETRAIN)
        return jnp.asarray(stages)[jnp.clip(stage, 0, len(stages) - 1)]

    plain, to_the_end = map(now, table.values())
    return jnp.where(method == METHODS.index("proximal matching"), plain, to_the_end)


def member(h: dict[str, jax.Array], key: jax.Array) -> train.Run:
    matching = h["method"] >= METHODS.index("proximal matching")

    def learning_rate(step: jax.Array) -> jax.Array:
        plain = jnp.where(step < 4000, 1e-3, 1e-4)
        narrowing = jnp.where(step < PRETRAIN, 1e-3, staged(RATES, h["method"], step))
        return jnp.where(matching, narrowing, plain)

    def loss_fn(params: Any, step: jax.Array, _: Any, key: jax.Array) -> Any:
        data_key, noise_key = jax.random.split(key)
        x = jax.random.laplace(data_key, (BATCH, 1))
        y = x + jax.random.normal(noise_key, x.shape)
        denoised = proximal_operator(lambda y: potential(params, y), y)
        narrow = matching & (step >= PRETRAIN)
        losses = (
            lambda: jnp.square(denoised - x)[:, 0],
            lambda: jnp.abs(denoised - x)[:, 0],
            lambda: proximal_matching_loss(denoised, x, gamma=staged(WIDTHS, h["method"], step)),
        )
        which = jnp.where(matching, jnp.where(narrow, 2, 1), h["method"])
        return lax.switch(which, losses).mean(), (step + 1, {})

    optimizer = optax.chain(
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(learning_rate),
        optax.masked(optax.keep_params_nonnegative(), InputConvexParams.nonnegative()),
    )
    params = input_convex_init(key, in_dim=1, hidden=32, layers=2)
    return train.Run(loss_fn, params, optimizer, {"unused": jnp.zeros(1)}, jnp.zeros((), int))


def minimisers(y: np.ndarray) -> dict[str, np.ndarray]:
    """What each loss asks for at each y: the posterior's mean, its median, its smoothed mode."""
    x = np.linspace(-12, 12, 6001)
    posterior = np.exp(-np.abs(x) - (x - y[:, None]) ** 2 / 2)
    posterior /= posterior.sum(1, keepdims=True)
    guesses = np.linspace(-3.5, 3.5, 1401)
    found = {
        "squared": posterior @ x,
        "absolute": x[np.argmax(posterior.cumsum(1) >= 0.5, axis=1)],
    }
    for method, widths in WIDTHS.items():
        kernel = np.exp(-((x[:, None] - guesses) ** 2) / widths[-1] ** 2)
        found[method] = guesses[np.argmax(posterior @ kernel, axis=1)]
    return found


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    seeds, steps = (3, TOTAL) if size == "full" else (1, 20)
    trained = train.sweep(
        member,
        {"method": jnp.repeat(jnp.arange(len(METHODS)), seeds)},
        keys=jnp.tile(jax.random.split(key, seeds), len(METHODS)),
        steps=steps,
        batch_size=1,
        progress=False,
    )
    y, x = np.linspace(-3.5, 3.5, 141), np.linspace(-2, 2, 81)
    soft = np.sign(y) * np.maximum(np.abs(y) - 1, 0)

    @jax.jit
    def judge(params: Any) -> dict[str, jax.Array]:
        def fn(y: jax.Array) -> jax.Array:
            return potential(params, y)

        points, at = jnp.asarray(y, jnp.float32)[:, None], jnp.asarray(x, jnp.float32)[:, None]
        denoised, prior = proximal_operator(fn, points)[:, 0], learned_prior(fn, at)
        prior = prior - prior[len(x) // 2]
        return {
            "error of the denoiser": jnp.mean(jnp.abs(denoised - soft)),
            "error of the prior": jnp.mean(jnp.abs(prior - jnp.abs(x))),
            "denoisers": denoised,
            "priors": prior,
        }

    judged = jax.jit(lambda params: lax.map(judge, params))(trained.params)
    results: dict[str, Any] = {
        name: dict(
            zip(METHODS, np.asarray(v).reshape(len(METHODS), seeds, *v.shape[1:]), strict=True)
        )
        for name, v in judged.items()
    }
    least = minimisers(y)
    results["error of the loss's own minimiser"] = {
        method: float(np.abs(values - soft).mean()) for method, values in least.items()
    }
    results["denoiser to the loss's minimiser"] = {
        method: np.abs(results["denoisers"][method] - values).mean(1)
        for method, values in least.items()
    }
    results["y"], results["x"] = y, x
    return results


def holds(results: dict[str, Any]) -> bool:
    return all(
        results[error]["proximal matching"].mean()
        <= min(results[error][method].mean() for method in ("squared", "absolute")) / 2
        for error in ("error of the denoiser", "error of the prior")
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    denoiser, prior = figure.subplots(1, 2)
    y, x = results["y"], results["x"]
    denoiser.plot(y, np.sign(y) * np.maximum(np.abs(y) - 1, 0), "k:", label="soft threshold (MAP)")
    prior.plot(x, np.abs(x), "k:", label="|x|, minus log density")
    for method in METHODS:
        for i, curve in enumerate(results["denoisers"][method]):
            (line,) = denoiser.plot(y, curve, lw=1, label=None if i else method)
            line.set_color(f"C{METHODS.index(method)}")
        for i, curve in enumerate(results["priors"][method]):
            prior.plot(x, curve, f"C{METHODS.index(method)}", lw=1, label=None if i else method)
    denoiser.set(xlabel="noisy y", ylabel="denoised f(y)", title="denoisers, each seed")
    prior.set(xlabel="x", ylabel="R(x) - R(0)", title="the priors that they stand for")
    for axis in (denoiser, prior):
        axis.legend(fontsize=8)
    return figure


EXPERIMENT = Experiment(
    paper="learned-proximal",
    claim="On Laplace data a network trained by proximal matching becomes the MAP denoiser, and "
    "its prior minus the log density: both errors are at most half of those after training with "
    "squared or absolute error",
    remark="The prior's error is halved, the denoiser's misses it by a twentieth. The last width, "
    "0.3, is our setting's and not the paper's: the loss itself has its minimum 0.045 from the MAP "
    "denoiser there, and a network trained for 6000 steps adds half as much. Down to the paper's "
    "0.1, in as many steps, both errors are less than half; that row has no part in the verdict.",
    run=run,
    holds=holds,
    plot=plot,
)
