"""Score learning is regression on noisy labels: it overfits, and a rule says when to stop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib.figure import Figure

from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.score import (
    GaussianMixture,
    OrnsteinUhlenbeck,
    early_stopping_time,
    kernel_gradient_descent,
    regression_pairs,
    relu_ntk,
)

PROCESS = OrnsteinUhlenbeck(volatility=2**0.5, t_min=0.05, t_max=2.0)
LAST = 1_000_000


def mixture() -> GaussianMixture:
    """Four Gaussians at the corners of a square."""
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    return GaussianMixture.of(np.ones(4), corners, np.full(4, 0.25**2))


def features(x: jax.Array, t: jax.Array) -> jax.Array:
    """A network's input: the point, the time from the start, and 1 for a bias."""
    return jnp.concatenate([x, t[:, None] - PROCESS.t_min, jnp.ones((len(x), 1), x.dtype)], axis=1)


def train_network(
    key: jax.Array,
    z: jax.Array,
    targets: jax.Array,
    test: jax.Array,
    width: int,
    size: Any,
    steps: int,
) -> jax.Array:
    """Predictions of a two-layer ReLU network after gradient descent on its first layer.

    Hidden units come in pairs with opposite signs, so that the network begins at 0.
    """
    first, second = jax.random.split(key)
    half = jax.random.normal(first, (width // 2, z.shape[1]), z.dtype)
    signs = jax.random.rademacher(second, (width // 2, targets.shape[1]), z.dtype)
    weights = jnp.concatenate([half, half])
    signs = jnp.concatenate([signs, -signs]) / jnp.sqrt(width)

    def predict(weights: jax.Array, z: jax.Array) -> jax.Array:
        return jax.nn.relu(z @ weights.T) @ signs

    def loss(weights: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(predict(weights, z) - targets)) / (2 * len(z))

    def step(weights: jax.Array, _: None) -> tuple[jax.Array, None]:
        return weights - size * jax.grad(loss)(weights), None

    return predict(lax.scan(step, weights, length=steps)[0], test)


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    """Errors of kernel descent against time, the rule's time, and networks against their kernel."""
    seeds, n, queries, widths, steps = (
        (5, 400, 4000, (64, 256, 1024, 4096), 200)
        if size == "full"
        else (1, 60, 100, (64, 1024), 20)
    )
    times = np.unique(np.geomspace(1, LAST, 60).round().astype(int))

    def one(key: jax.Array) -> dict[str, jax.Array]:
        data = mixture()
        keys = jax.random.split(key, 5)
        x, t, labels = regression_pairs(keys[0], data.sample(keys[1], n), process=PROCESS)
        fresh, fresh_t, _ = regression_pairs(
            keys[2], data.sample(keys[3], queries), process=PROCESS
        )
        scale, std = PROCESS.scale(t), PROCESS.std(t)
        clean = data.denoised(x, scale, std)
        truth = data.denoised(fresh, PROCESS.scale(fresh_t), PROCESS.std(fresh_t))
        z, test = features(x, t), features(fresh, fresh_t)
        gram, cross = relu_ntk(z, z), relu_ntk(test, z)
        eigenvalues, vectors = jnp.linalg.eigh(gram / n)
        step_size = 1 / eigenvalues[-1]
        noisy = kernel_gradient_descent(gram, cross, labels, times)
        ideal = kernel_gradient_descent(gram, cross, clean, times)

        def error(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.mean(jnp.sum(jnp.square(a - b), axis=-1), axis=-1)

        # Of one coordinate: the labels' noise, and the target's norm in the kernel's space.
        noise = jnp.sqrt(jnp.mean(jnp.trace(data.denoised_covariance(x, scale, std), 0, 1, 2) / 2))
        weight = jnp.square(vectors.T @ clean) / jnp.maximum(eigenvalues, 1e-6)[:, None]
        norm = jnp.sqrt(jnp.sum(weight) / (2 * n))

        def stop(noise_std: jax.Array) -> jax.Array:
            return early_stopping_time(
                eigenvalues, noise_std=noise_std, step_size=step_size, max_time=LAST
            )

        stops = jnp.stack([stop(noise / norm), stop(noise)])
        stopped = kernel_gradient_descent(gram, cross, labels, stops)
        follow = kernel_gradient_descent(gram, cross, labels, jnp.array([steps]))[0]
        return {
            "error": error(noisy, truth),
            "label mismatch": error(noisy, ideal),
            "early stopping": error(ideal, ideal[-1]),
            "approximation": error(ideal[-1], truth),
            "stopping time": stops[0],
            "error at the stopping time": error(stopped, truth)[0],
            "stopping time, not rescaled": stops[1],
            "error at the stopping time, not rescaled": error(stopped, truth)[1],
            "error of predicting 0": error(truth, jnp.zeros_like(truth)),
            "noise": noise,
            "norm": norm,
            "coupling": jnp.stack(
                [
                    error(train_network(keys[4], z, labels, test, m, step_size, steps), follow)
                    for m in widths
                ]
            ),
        }

    with jax.enable_x64(True):
        found = lax.map(one, jax.random.split(key, seeds))
        results: dict[str, Any] = {name: np.asarray(value) for name, value in found.items()}
    coupling = results["coupling"].mean(axis=0)
    slope = np.polyfit(np.log(widths), np.log(coupling), 1)[0]
    return {
        "times": times,
        "widths": list(widths),
        **results,
        "least error": results["error"].min(axis=1),
        "last error": results["error"][:, -1],
        "slope of coupling": float(slope),
    }


def holds(results: dict[str, Any]) -> bool:
    """Descent overfits, the rule stops it well, and wide networks follow the kernel."""
    least, last = np.asarray(results["least error"]), np.asarray(results["last error"])
    stopped = np.mean(results["error at the stopping time"])
    coupling = np.mean(results["coupling"], axis=0)
    return bool(
        np.all(last >= 1.3 * least)
        and stopped <= 2 * least.mean()
        and stopped <= last.mean() / 2
        and np.all(np.diff(coupling) < 0)
        and results["slope of coupling"] < -0.5
    )


def plot(results: dict[str, Any]) -> Figure:
    """Draw the error against time with the rule's time, and networks against the kernel."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    error, coupling = figure.subplots(1, 2)
    for values in np.asarray(results["error"]):
        error.loglog(results["times"], values, color="tab:blue", alpha=0.4)
    for name, color in (("label mismatch", "tab:red"), ("early stopping", "tab:green")):
        error.loglog(results["times"], np.mean(results[name], axis=0), color=color, label=name)
    error.axhline(np.mean(results["approximation"]), color="gray", ls=":", label="approximation")
    stops, at_stop = results["stopping time"], results["error at the stopping time"]
    error.plot(stops, at_stop, "k*", markersize=9, label="the rule stops here")
    error.plot([], [], color="tab:blue", label="error (each seed)")
    error.set(xlabel="steps of kernel descent", ylabel="mean squared error on fresh points")
    error.set(ylim=(1e-3, 2))
    error.legend(fontsize=8)
    for values in np.asarray(results["coupling"]):
        coupling.loglog(results["widths"], values, "o-", color="tab:purple", alpha=0.5)
    slope = results["slope of coupling"]
    coupling.set(
        xlabel="width", ylabel="network - kernel, mean squared", title=f"slope {slope:.2f}"
    )
    return figure


EXPERIMENT = Experiment(
    paper="nn-score-estimation",
    claim=(
        "Kernel descent on noisy labels overfits; stopped early by a rule known in advance its "
        "error is within twice the least and under half of the last; networks approach it as they "
        "grow wide"
    ),
    run=run,
    holds=holds,
    plot=plot,
)
