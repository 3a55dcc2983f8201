"""Sliced Wasserstein with control variates: the error of values, of gradients, and of flows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits

from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.transport import (
    control_variate_mean,
    gaussian_control_variate,
    projected_wasserstein,
    sample_projections,
)

SHIFTS = (3.0, 1.0, 0.3)
COUNTS = (5, 10, 50)


CONTROLS: dict[str, dict[str, Any]] = {
    "lower": {"bound": "lower", "coefficient": "plugin"},
    "upper": {"bound": "upper", "coefficient": "plugin"},
    "lower, frozen": {
        "bound": "lower",
        "coefficient": "plugin",
        "differentiate_coefficient": False,
    },
    "lower, centred": {"bound": "lower", "coefficient": "centred"},
    "both, centred": {"bound": "both", "coefficient": "centred"},
}
ESTIMATORS = ("plain", *CONTROLS)
PAPER = ESTIMATORS[:3]


def estimates(
    key: jax.Array, x: jax.Array, y: jax.Array, count: int, names: tuple[str, ...] = ESTIMATORS
) -> jax.Array:
    """SW_2^2 by each estimator, all from the same directions."""
    theta = sample_projections(key, count, x.shape[1])
    costs = projected_wasserstein(x, y, theta)
    found = [jnp.mean(costs)]
    for name in names[1:]:
        options = dict(CONTROLS[name])
        controls = gaussian_control_variate(x, y, theta, bound=options.pop("bound"))
        found.append(control_variate_mean(costs, *controls, **options).value)
    return jnp.stack(found)


def torus(key: jax.Array, n: int) -> jax.Array:
    """Points on a torus of radii 1 and 0.3, uniform in both angles."""
    around, about = 2 * jnp.pi * jax.random.uniform(key, (2, n))
    radius = 1 + 0.3 * jnp.cos(about)
    return jnp.stack(
        [radius * jnp.cos(around), radius * jnp.sin(around), 0.3 * jnp.sin(about)], axis=1
    )


def pairs(key: jax.Array, size: Size) -> dict[str, tuple[jax.Array, jax.Array]]:
    x, labels = load_digits(return_X_y=True)
    digits = [jnp.asarray(x[labels == label][:150] / 16, jnp.float32) for label in range(10)]
    first, second = jax.random.split(key)
    moved = torus(second, 256) * jnp.array([1.5, 1, 1]) + jnp.array([0.5, 0, 0])
    found = {f"digits {a}, {b}": (digits[a], digits[b]) for a, b in ((0, 1), (3, 8), (4, 9))}
    found["tori"] = torus(first, 256), moved
    return found if size == "full" else {"tori": found["tori"]}


def value_errors(key: jax.Array, size: Size) -> dict[str, Any]:
    """Root mean square error of SW_2^2 over that of the plain estimate, by pair and count."""
    keys, directions = (300, 30_000) if size == "full" else (30, 2_000)
    counts = COUNTS if size == "full" else (10, 50)
    data_key, reference_key, key = jax.random.split(key, 3)
    results: dict[str, Any] = {}
    for name, (x, y) in pairs(data_key, size).items():
        theta = sample_projections(reference_key, directions, x.shape[1])
        costs = projected_wasserstein(x, y, theta, chunk_size=1000)
        # Without controls its own error would be larger than those that it judges.
        controls = gaussian_control_variate(x, y, theta, bound="both")
        reference = control_variate_mean(costs, *controls).value
        for count in counts:

            @jax.jit
            def draw(keys: jax.Array, x: Any = x, y: Any = y, count: int = count) -> jax.Array:
                return jax.lax.map(lambda key: estimates(key, x, y, count), keys)

            errors = draw(jax.random.split(key, keys)) - reference
            rms = np.sqrt(np.mean(np.square(errors), axis=0))
            for estimator, ratio in zip(ESTIMATORS, rms / rms[0], strict=True):
                results[f"{name}, L = {count}: {estimator}"] = float(ratio)
    return results


def gradient_errors(key: jax.Array, size: Size) -> dict[str, Any]:
    """Relative root mean square error of the gradient of SW_2^2 by the moving cloud, L = 10."""
    keys, directions, n = (200, 10_000, 200) if size == "full" else (20, 500, 60)
    noise_key, torus_key, key = jax.random.split(key, 3)
    y = torus(torus_key, n)
    results: dict[str, Any] = {}

    @jax.jit
    def draw(keys: jax.Array, x: jax.Array) -> jax.Array:
        return jax.lax.map(lambda key: jax.jacrev(estimates, 1)(key, x, y, 10), keys)

    @jax.jit
    def exact(x: jax.Array) -> jax.Array:
        theta = sample_projections(key, directions, 3, method="spiral")
        return jax.grad(lambda x: projected_wasserstein(x, y, theta, chunk_size=500).mean())(x)

    for shift in SHIFTS:
        x = 0.6 * jax.random.normal(noise_key, (n, 3)) + shift
        reference = exact(x)
        errors = draw(jax.random.split(key, keys), x) - reference
        rms = np.sqrt(np.mean(np.sum(np.square(errors), axis=(2, 3)), axis=0))
        for name, error in zip(ESTIMATORS, rms / np.linalg.norm(reference), strict=True):
            results[f"gradient, shift {shift:g}: {name}"] = float(error)
    return results


def own(name: str) -> tuple[str, ...]:
    return ("plain",) if name == "plain" else ("plain", name)


def flows(key: jax.Array, size: Size) -> dict[str, Any]:
    """Exact W_2 to the torus after a gradient flow from a shifted Gaussian cloud."""
    seeds, steps, n = (5, 300, 100) if size == "full" else (1, 5, 30)
    results: dict[str, Any] = {}
    for count in (5, 10):

        @jax.jit
        def run(keys: jax.Array, count: int = count) -> tuple[jax.Array, jax.Array]:
            def flow(key: jax.Array) -> tuple[jax.Array, jax.Array]:
                start_key, torus_key, key = jax.random.split(key, 3)
                y = torus(torus_key, n)
                start = jax.random.normal(start_key, (n, 3)) + 3

                def step(clouds: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
                    def total(clouds: jax.Array) -> jax.Array:
                        pairs = zip(PAPER, clouds, strict=True)
                        found = [estimates(key, x, y, count, own(name))[-1] for name, x in pairs]
                        return jnp.sum(jnp.stack(found))

                    return clouds - 0.05 * n * jax.grad(total)(clouds), None

                clouds, _ = jax.lax.scan(
                    step, jnp.stack([start] * len(PAPER)), jax.random.split(key, steps)
                )
                return clouds, y

            return jax.lax.map(flow, keys)

        clouds, targets = map(np.asarray, run(jax.random.split(key, seeds)))
        found = np.zeros((seeds, len(PAPER)))
        for seed, y in enumerate(targets):
            for i, x in enumerate(clouds[seed]):
                cost = cdist(x, y) ** 2
                found[seed, i] = np.sqrt(cost[linear_sum_assignment(cost)].mean())
        for name, distance in zip(PAPER, found.mean(axis=0), strict=True):
            results[f"flow, L = {count}: {name}"] = float(distance)
    return results


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    first, second, third = jax.random.split(key, 3)
    return {**value_errors(first, size), **gradient_errors(second, size), **flows(third, size)}


def holds(results: dict[str, Any]) -> bool:
    def best(setting: str) -> float:
        return min(results[f"{setting}: {name}"] for name in PAPER[1:])

    at_50 = [best(name.split(":")[0]) for name in results if name.endswith("L = 50: plain")]
    gradients = [
        results[f"gradient, shift {shift:g}: lower"] / results[f"gradient, shift {shift:g}: plain"]
        for shift in SHIFTS[:2]
    ]
    # Half a percent, over five seeds, is a tie.
    faster = [best(f"flow, L = {n}") < 0.98 * results[f"flow, L = {n}: plain"] for n in (5, 10)]
    return max(at_50) < 0.9 and min(at_50) < 0.5 and max(gradients) < 0.7 and all(faster)


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(14, 4), layout="constrained")
    values, gradients, flow = figure.subplots(1, 3)
    settings = [name.split(":")[0] for name in results if name.endswith("plain")]
    pairs = sorted({s.split(", L")[0] for s in settings if not s.startswith(("grad", "flow"))})
    counts = sorted({int(s.split("= ")[1]) for s in settings if s.split(", L")[0] in pairs})
    for name in (name for name in CONTROLS if name != "lower, frozen"):
        ratios = [[results[f"{pair}, L = {n}: {name}"] for n in counts] for pair in pairs]
        line = values.plot(counts, np.exp(np.log(ratios).mean(0)), "o-", label=name)[0]
        for row in ratios:
            values.plot(counts, row, color=line.get_color(), alpha=0.25)
    values.axhline(1, color="0.5", linewidth=1)
    values.set(
        xscale="log",
        yscale="log",
        xlabel="directions L",
        ylabel="error / plain error",
        title="SW₂², each pair and their mean",
    )
    values.set_xticks(counts, [str(n) for n in counts])
    values.minorticks_off()
    values.legend(fontsize=8, loc="lower left")
    for i, name in enumerate(ESTIMATORS):
        errors = [results[f"gradient, shift {shift:g}: {name}"] for shift in SHIFTS]
        gradients.bar(np.arange(len(SHIFTS)) + 0.13 * (i - 2.5), errors, 0.13, label=name)
    gradients.set_xticks(range(len(SHIFTS)), [f"shift {shift:g}" for shift in SHIFTS])
    gradients.set(ylabel="relative error", ylim=(0, 0.7), title="gradient of SW₂², L = 10")
    gradients.legend(fontsize=8, ncols=2, loc="upper left")
    for i, name in enumerate(PAPER):
        found = [results[f"flow, L = {n}: {name}"] for n in (5, 10)]
        flow.bar(np.arange(2) + 0.25 * (i - 1), found, 0.25, label=name)
    flow.set_xticks(range(2), ["L = 5", "L = 10"])
    flow.set(ylabel="exact W₂ at the end", title="gradient flow to a torus")
    flow.legend(fontsize=8, loc="lower right")
    return figure


EXPERIMENT = Experiment(
    paper="sw-control-variates",
    claim="at 50 directions the better of the two control variates has below 0.9 of the plain "
    "error of SW_2^2 on every pair and below 0.5 on one; at 10 the lower one has below 0.7 of the "
    "gradient's error at shifts 1 and 3; gradient flows end nearer to their target, by 2%, "
    "at 5 and 10",
    run=run,
    holds=holds,
    plot=plot,
    reported={"flow, L = 10: lower": "nearer than plain (figures not at hand)"},
    remark="The error of values and gradients falls as claimed, and several times further with "
    "centred coefficients than with the paper's plugin. The flows end level, within half a percent "
    "for the lower control: near the target the means agree, and the control has nothing to say.",
)
