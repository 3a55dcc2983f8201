"""Unnormalised densities by compositional optimisation, by the plug-in estimate and by contrast."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.scipy.stats import norm
from matplotlib.figure import Figure

from lossbench import train
from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.bench.models import mlp
from lossbench.score import (
    GaussianMixture,
    compositional_likelihood_init,
    compositional_likelihood_loss,
    noise_contrastive_loss,
)

METHODS = ("MECO", "plug-in", "NCE")
LIKELIHOOD_STEPS = (0.1, 0.3, 1.0)
CONTRAST_STEPS = (0.1, 0.3, 1.0, 3.0, 10.0)
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
GAUSSIANS = {
    # mean of the data, standard deviation of the noise, log p0 = -(x - theta)^2 / 2 or not
    "mean 4, noise 2": (4.0, 2.0, True),
    "mean 4, noise 3": (4.0, 3.0, True),
    "mean 2, noise 1": (2.0, 1.0, True),
    "mean 3, noise 1": (3.0, 1.0, True),
    "mean 4, noise 3, log p0 = theta x - x^2 / 2": (4.0, 3.0, False),
}
MAIN = "mean 4, noise 2"


@jax.jit
def steps_needed(target: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Steps of gradient descent on the populations' objectives, from 0 to 0.1 from the mean.

    By maximum likelihood and by noise contrast; -1 where 5000 are not enough.
    """
    x, cell = jnp.linspace(-12, 18, 1501, retstep=True)
    p, q = cell * norm.pdf(x, target), cell * norm.pdf(x)

    def likelihood(theta: jax.Array) -> jax.Array:
        # The grid is the noise: evenly spread, so that the mean weight is the integral.
        f = theta * x - x**2 / 2
        log_q = jnp.full_like(x, -jnp.log(cell * x.size))
        values, _ = compositional_likelihood_loss(compositional_likelihood_init(), f, f, log_q)
        return values @ p

    def contrast(theta: jax.Array) -> jax.Array:
        ratio = theta * x - theta**2 / 2
        of_data, of_noise = noise_contrastive_loss(ratio, ratio)
        return (of_data @ p + of_noise @ q) / 2

    def count(objective: Callable[[jax.Array], jax.Array]) -> jax.Array:
        def going(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
            theta, steps = carry
            return (jnp.abs(theta - target) >= 0.1) & (steps < 5000) & jnp.isfinite(theta)

        def step(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            theta, steps = carry
            return theta - size * jax.grad(objective)(theta), steps + 1

        theta, steps = lax.while_loop(going, step, (jnp.zeros(()), jnp.zeros((), int)))
        return jnp.where(jnp.abs(theta - target) < 0.1, steps, -1)

    return count(likelihood), count(contrast)


def landscape(target: float) -> dict[str, Any]:
    counts = np.array([steps_needed(target, size) for size in CONTRAST_STEPS])

    def least(counts: np.ndarray) -> int:
        return int(min((count for count in counts if count >= 0), default=-1))

    return {
        "likelihood": least(counts[: len(LIKELIHOOD_STEPS), 0]),
        "NCE": least(counts[:, 1]),
        "NCE by step size (-1: never)": dict(
            zip(map(str, CONTRAST_STEPS), counts[:, 1], strict=True)
        ),
    }


def gaussian_path(
    key: jax.Array,
    method: jax.Array,
    rate: jax.Array,
    target: jax.Array,
    noise_std: jax.Array,
    centred: jax.Array,
    num_steps: int,
) -> jax.Array:
    """|theta - theta*| after each stochastic step, 64 data and 64 noise points each."""
    gamma = jnp.where(method == METHODS.index("MECO"), 0.1, 1.0)
    optimizer = optax.chain(optax.ema(0.9), optax.scale(-1.0))

    def step(carry: tuple[Any, ...], key: jax.Array) -> tuple[tuple[Any, ...], jax.Array]:
        params, averages, state = carry
        data_key, noise_key = jax.random.split(key)
        x = target + jax.random.normal(data_key, (64,))
        y = noise_std * jax.random.normal(noise_key, (64,))

        def loss(params: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
            theta = params["theta"]

            def f(x: jax.Array) -> jax.Array:
                return theta * x - x**2 / 2 - jnp.where(centred > 0, theta**2 / 2, 0)

            def log_q(x: jax.Array) -> jax.Array:
                return norm.logpdf(x, scale=noise_std)

            likelihood, new = compositional_likelihood_loss(
                state, f(x), f(y), log_q(y), inner_rate=gamma
            )
            terms = noise_contrastive_loss(
                f(x) - params["log_z"] - log_q(x), f(y) - params["log_z"] - log_q(y)
            )
            contrast = terms[0].mean() + terms[1].mean()
            return jnp.where(method == METHODS.index("NCE"), contrast, likelihood.mean()), new

        gradient, state = jax.grad(loss, has_aux=True)(params)
        updates, averages = optimizer.update(gradient, averages)
        params = optax.apply_updates(params, jax.tree.map(lambda u: rate * u, updates))
        return (params, averages, state), jnp.abs(params["theta"] - target)

    params = {"theta": jnp.zeros(()), "log_z": jnp.zeros(())}
    start = (params, optimizer.init(params), compositional_likelihood_init())
    return lax.scan(step, start, jax.random.split(key, num_steps))[1]


def gaussian_means(key: jax.Array, size: Size) -> dict[str, Any]:
    """Each method's error at its best rate: averaged over the steps, and squared at the end."""
    seeds, num_steps = (10, 400) if size == "full" else (2, 20)
    keys = jax.random.split(key, seeds)
    settings = np.array(list(GAUSSIANS.values()), np.float32)

    @jax.jit
    def paths() -> jax.Array:
        def one(setting: jax.Array, method: jax.Array, rate: jax.Array, key: jax.Array) -> Any:
            target, noise_std, centred = setting
            return gaussian_path(key, method, rate, target, noise_std, centred, num_steps)

        run = jax.vmap(one, (None, None, None, 0))
        for axis in (2, 1, 0):  # rates, methods, settings
            run = jax.vmap(run, tuple(0 if i == axis else None for i in range(4)))
        return run(jnp.asarray(settings), jnp.arange(len(METHODS)), jnp.asarray(RATES), keys)

    errors = np.nan_to_num(np.asarray(paths()), nan=np.inf)
    with np.errstate(over="ignore"):
        figures = {
            "mean error": errors.mean(-1),
            "final squared error": np.square(errors[..., -num_steps // 4 :]).mean(-1),
        }
    results: dict[str, Any] = {}
    for name, values in figures.items():
        best = values.mean(-1).argmin(-1)  # of the rates
        results[name] = {
            setting: {method: values[i, j, best[i, j]].mean() for j, method in enumerate(METHODS)}
            for i, setting in enumerate(GAUSSIANS)
        }
    main = list(GAUSSIANS).index(MAIN)
    best = figures["mean error"].mean(-1).argmin(-1)[main]
    results["paths"] = {
        method: errors[main, j, best[j]].mean(0) for j, method in enumerate(METHODS)
    }
    return results


def ring() -> GaussianMixture:
    angles = jnp.arange(8) * jnp.pi / 4
    means = 2 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return GaussianMixture.of(jnp.ones(8), means, jnp.full(8, 0.3**2))


NETWORK = mlp((2, 64, 64, 1), activation=jax.nn.silu)
NOISE_VARIANCE = 1.5 * (2 + 0.3**2)  # of each coordinate: the data's, widened


def log_model(params: Any, x: jax.Array) -> jax.Array:
    """Unnormalised, read out without a bias: the running partition function dislikes one."""
    values = NETWORK.apply(params["network"], x)["embeddings"] @ params["readout"]
    return values - jnp.sum(x**2, axis=1) / (2 * 9)


def log_noise(x: jax.Array) -> jax.Array:
    return norm.logpdf(x, scale=jnp.sqrt(NOISE_VARIANCE)).sum(axis=1)


def densities(key: jax.Array, num_noise: int, size: Size) -> tuple[dict[str, Any], Any]:
    """Test negative log-likelihoods (method, seed), normalised on a grid, and densities there."""
    seeds, steps, num_test, cells = (3, 4000, 10_000, 200) if size == "full" else (1, 10, 100, 50)

    def member(h: dict[str, jax.Array], key: jax.Array) -> train.Run:
        gamma = jnp.where(h["method"] == METHODS.index("MECO"), 0.1, 1.0)

        def loss_fn(params: Any, state: Any, _: Any, key: jax.Array) -> Any:
            data_key, noise_key = jax.random.split(key)
            x = ring().sample(data_key, 128)
            y = jnp.sqrt(NOISE_VARIANCE) * jax.random.normal(noise_key, (num_noise, 2))
            log_p = log_model(params, jnp.concatenate([x, y]))
            log_q = log_noise(jnp.concatenate([x, y]))
            likelihood, state = compositional_likelihood_loss(
                state, log_p[:128], log_p[128:], log_q[128:], inner_rate=gamma
            )
            ratio = log_p - params["log_z"] - log_q
            of_data, of_noise = noise_contrastive_loss(
                ratio[:128], ratio[128:], noise_ratio=num_noise / 128
            )
            contrast = of_data.mean() + num_noise / 128 * of_noise.mean()
            loss = jnp.where(h["method"] == METHODS.index("NCE"), contrast, likelihood.mean())
            return loss, (state, {})

        params = {
            "network": NETWORK.init(key),
            "readout": jax.random.normal(key, (64,)) / 8,
            "log_z": jnp.zeros(()),
        }
        state = compositional_likelihood_init()
        return train.Run(loss_fn, params, optax.adam(1e-3), {"unused": jnp.zeros(1)}, state)

    trained = train.sweep(
        member,
        {"method": jnp.repeat(jnp.arange(len(METHODS)), seeds)},
        keys=jnp.tile(jax.random.split(key, seeds), len(METHODS)),
        steps=steps,
        batch_size=1,
        progress=False,
    )
    side = jnp.linspace(-5, 5, cells)
    grid = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
    log_cell = 2 * jnp.log(side[1] - side[0])
    test = ring().sample(jax.random.fold_in(key, 1), num_test)

    @jax.jit
    def judge(params: Any) -> tuple[jax.Array, jax.Array]:
        log_p = log_model(params, grid)
        log_z = jax.nn.logsumexp(log_p) + log_cell
        return log_z - log_model(params, test).mean(), jnp.exp(log_p - log_z)

    losses, on_grid = jax.jit(lambda params: lax.map(judge, params))(trained.params)
    losses = np.asarray(losses).reshape(len(METHODS), seeds)
    on_grid = np.asarray(on_grid).reshape(len(METHODS), seeds, cells, cells)
    measured: dict[str, Any] = dict(zip(METHODS, losses, strict=True))
    measured["truth"] = float(-ring().log_density(test).mean())
    ahead = losses[METHODS.index("NCE")] - losses[METHODS.index("MECO")]
    measured["MECO ahead of NCE by"] = float(ahead.mean())
    if seeds > 1:
        measured["standard error"] = float(ahead.std(ddof=1) / np.sqrt(seeds))
    return measured, on_grid[:, 0]


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    results: dict[str, Any] = {
        f"steps of gradient descent, mean {target}": landscape(float(target))
        for target in (3, 4, 6)
    }
    results |= gaussian_means(key, size)
    for num_noise in (128, 8):
        name = f"ring, {num_noise} noise points"
        results[name], on_grid = densities(jax.random.fold_in(key, num_noise), num_noise, size)
        if num_noise == 128:
            # Every fourth cell is enough for a picture.
            results["ring, densities"] = dict(
                zip(METHODS, on_grid[:, ::4, ::4].round(4), strict=True)
            )
    return results


def holds(results: dict[str, Any]) -> bool:
    steps = results["steps of gradient descent, mean 4"]
    errors = results["mean error"][MAIN]
    density = results["ring, 128 noise points"]
    return (
        steps["likelihood"] <= steps["NCE"] / 10
        and errors["MECO"] < min(errors["NCE"], errors["plug-in"])
        and density["MECO ahead of NCE by"] >= density.get("standard error", np.inf)
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(14, 7), layout="constrained")
    (paths, narrow, ring_axis), pictures = figure.subplots(2, 3)
    for method, path in results["paths"].items():
        paths.semilogy(np.arange(1, len(path) + 1), path, label=method)
    paths.set(xlabel="step", ylabel="|theta - theta*|", title=f"Gaussian, {MAIN}")
    paths.legend(fontsize=8)
    places, width = np.arange(len(GAUSSIANS)), 0.27
    for j, method in enumerate(METHODS):
        values = [results["final squared error"][setting][method] for setting in GAUSSIANS]
        narrow.bar(places + width * (j - 1), values, width, label=method)
    narrow.set(
        yscale="log",
        xticks=places,
        xticklabels=["4, 2", "4, 3", "2, 1", "3, 1", "4, 3,\nlog Z moves"],
        xlabel="mean of the data, std of the noise",
        ylabel="squared error at the end",
    )
    narrow.legend(fontsize=8)
    for j, method in enumerate(METHODS):
        values = [results[f"ring, {m} noise points"][method].mean() for m in (128, 8)]
        ring_axis.bar(np.arange(2) + width * (j - 1), values, width, label=method)
    ring_axis.axhline(results["ring, 128 noise points"]["truth"], color="k", ls=":", label="truth")
    ring_axis.set(
        xticks=(0, 1),
        xticklabels=("128", "8"),
        xlabel="noise points a step",
        ylabel="ring: test NLL",
    )
    low = results["ring, 128 noise points"]["truth"] - 0.1
    ring_axis.set_ylim(bottom=low)
    ring_axis.legend(fontsize=8, loc="upper left")
    for axis, (method, density) in zip(pictures, results["ring, densities"].items(), strict=True):
        axis.imshow(density, origin="lower", extent=(-5, 5, -5, 5), cmap="magma")
        axis.set(title=f"density by {method}, 128 noise points", xlabel="x", ylabel="y")
    return figure


EXPERIMENT = Experiment(
    paper="compositional-ebm",
    claim="Maximum likelihood by compositional optimisation (MECO) beats noise-contrastive "
    "estimation: a tenth of the steps of gradient descent for the mean of a Gaussian (4, noise "
    "N(0, 1)), smaller errors on the way by stochastic steps (noise N(0, 4)), also than the "
    "plug-in estimate, and a better density of a ring",
    remark="The landscape (1 step against 11) and the speed (mean error 0.15 against 0.24 and "
    "0.33) are as claimed; the density is not: with noise this close to the data contrast is "
    "nearly efficient (ring: 2.53 against 2.56, the truth 2.47), and the running average helps "
    "over the plug-in estimate at 8 noise points only (2.75 against 2.84, contrast 2.73). Contrast "
    "also ends nearer to the mean, and wins throughout where the noise is narrow: there the "
    "weights vary by exp(theta^2) - 1. Where log Z moves with theta the running average lags, and "
    "the plug-in estimate wins. At mean 3 contrast needs 6 steps at its best size, at mean 6 90.",
    run=run,
    holds=holds,
    plot=plot,
)
