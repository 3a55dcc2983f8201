"""Gradient descent with large steps on separable data: the perceptron limit, the factor n."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression

from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.classification import logistic_descent_step

LIMIT = 100_000
HARD_RATES = (1.0, 10.0, 1e3, np.inf)
RATES = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
FORMS = {"plain": False, "normalised": True}


def hard_instance(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n - 1 copies of (1, 0) and one point (-1, 1/2) of the same class."""
    x = np.tile([[1.0, 0.0]], (n, 1))
    x[-1] = [-1.0, 0.5]
    return x, np.ones(n)


def linear_problem(x: np.ndarray, labels: np.ndarray) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(x), jnp.asarray(labels, int)


def digit_pair(first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    x, labels = load_digits(return_X_y=True)
    kept = np.isin(labels, (first, second))
    return x[kept] / 16, labels[kept] == second


def breast_cancer() -> tuple[np.ndarray, np.ndarray]:
    """The tumours that one hyperplane gets right, each feature standardised."""
    x, labels = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    right = LogisticRegression(C=100, max_iter=10_000).fit(x, labels).predict(x) == labels
    return x[right], labels[right] == 1


@functools.partial(jax.jit, static_argnames="normalize")
def descend(
    x: jax.Array, labels: jax.Array, rates: jax.Array, normalize: bool
) -> tuple[jax.Array, jax.Array]:
    """Iterations to separate the classes and the largest logistic loss on the way, by rate."""
    signs = 2 * labels - 1

    def run(rate: jax.Array) -> tuple[jax.Array, jax.Array]:
        def margins(direction: jax.Array) -> jax.Array:
            return signs * (x @ direction)

        def wrong(carry: Any) -> jax.Array:
            direction, count, _ = carry
            return ~jnp.all(margins(direction) > 0) & (count < LIMIT)

        def advance(carry: Any) -> Any:
            direction, count, largest = carry
            direction = logistic_descent_step(
                direction, x, labels, step_size=rate, normalize=normalize
            )
            # The loss of infinite steps is infinite, and of no interest.
            scaled = jnp.where(jnp.isinf(rate), 1, rate) * margins(direction)
            loss = jnp.mean(jax.nn.softplus(-scaled))
            return direction, count + 1, jnp.maximum(largest, loss)

        start = (jnp.zeros(x.shape[1], x.dtype), jnp.int32(0), jnp.log(jnp.ones((), x.dtype) * 2))
        _, count, largest = jax.lax.while_loop(wrong, advance, start)
        return count, largest

    return jax.lax.map(run, rates)


def perceptron_distance(x: jax.Array, labels: jax.Array, normalize: bool) -> jax.Array:
    """Largest distance, relative, of 30 iterates at a step size of 1e8 from the perceptron's."""
    signs = 2 * labels - 1

    def step(directions: Any, _: None) -> tuple[Any, jax.Array]:
        large, infinite = (
            logistic_descent_step(direction, x, labels, step_size=rate, normalize=normalize)
            for direction, rate in zip(directions, (1e8, jnp.inf), strict=True)
        )
        gap = jnp.linalg.norm(large - infinite) / jnp.linalg.norm(infinite)
        # The perceptron halts once the classes are separated, normalised descent never does.
        done = jnp.all(signs * (x @ directions[1]) > 0)
        return (large, infinite), jnp.where(done, 0, gap)

    start = jnp.zeros(x.shape[1], x.dtype)
    return jax.lax.scan(step, (start, start), length=30)[1].max()


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    sizes = [10, 30, 100, 300, 1000, 3000]
    sets = {"3 or 8": (3, 8), "1 or 7": (1, 7), "4 or 9": (4, 9)}
    if size == "smoke":
        sizes, sets = [10, 30, 100], {"1 or 7": (1, 7)}
    problems = {f"digits {name}": digit_pair(*pair) for name, pair in sets.items()}
    if size == "full":
        problems["breast cancer"] = breast_cancer()

    results: dict[str, Any] = {"n": sizes, "rates": list(RATES)}
    with jax.enable_x64(True):
        hard: dict[str, dict[str, list[int]]] = {
            form: {f"{rate:g}": [] for rate in HARD_RATES} for form in FORMS
        }
        for n in sizes:
            x, labels = linear_problem(*hard_instance(n))
            for form, normalize in FORMS.items():
                found, _ = descend(x, labels, jnp.array(HARD_RATES), normalize)
                for rate, count in zip(hard[form], found, strict=True):
                    hard[form][rate].append(int(count))
        results["hard instance"] = hard
        for form, by_rate in hard.items():
            for rate, counts in by_rate.items():
                # A run that met the limit only says that the slope is larger.
                known = np.array(counts) < LIMIT
                slope = np.polyfit(
                    np.log(np.array(sizes)[known]), np.log(np.array(counts)[known]), 1
                )
                results[f"hard instance, {form}, rate {rate}: slope in n"] = float(slope[0])

        distances = []
        for name, (features, classes) in problems.items():
            x, labels = linear_problem(np.column_stack([features, np.ones(len(features))]), classes)
            results[name] = {}
            for form, normalize in FORMS.items():
                counts, losses = descend(x, labels, jnp.array(RATES), normalize)
                results[name][form] = {"iterations": counts, "largest loss": losses}
                distances.append(float(perceptron_distance(x, labels, normalize)))
            plain, normalised = (np.asarray(results[name][form]["iterations"]) for form in FORMS)
            results[f"{name}: plain over normalised"] = float(
                plain.min() / normalised[RATES.index(100.0)]
            )
            losses = np.asarray(results[name]["plain"]["largest loss"])
            results[f"{name}: larger rates, larger loss"] = bool(np.all(np.diff(losses) >= 0))
            results[f"{name}: larger rates, fewer iterations"] = bool(
                np.all(plain[1:] <= 1.1 * plain[:-1])
            )
        results["distance from the perceptron at rate 1e8"] = max(distances)
    return results


def holds(results: dict[str, Any]) -> bool:
    names = [name.split(": ")[0] for name in results if name.endswith("plain over normalised")]
    slopes = {
        form: [results[f"hard instance, {form}, rate {rate:g}: slope in n"] for rate in HARD_RATES]
        for form in FORMS
    }
    return (
        results["distance from the perceptron at rate 1e8"] < 1e-5
        # At rate 1 plain descent takes some n log n steps.
        and all(0.8 <= slope <= 1.3 for slope in slopes["plain"])
        and all(slope < 0.2 for slope in slopes["normalised"][1:])
        and all(results[f"{name}: larger rates, larger loss"] for name in names)
        and all(results[f"{name}: larger rates, fewer iterations"] for name in names)
        and all(results[f"{name}: plain over normalised"] >= 1 for name in names)
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    hard, iterations, loss = figure.subplots(1, 3)
    styles = {"plain": "o-", "normalised": "s--"}
    for form, by_rate in results["hard instance"].items():
        for i, (rate, counts) in enumerate(by_rate.items()):
            hard.loglog(results["n"], counts, styles[form], color=f"C{i}", label=f"{form}, {rate}")
    hard.set(xlabel="examples n", ylabel="iterations to separate", title="hard instance, by rate")
    names = [name.split(": ")[0] for name in results if name.endswith("plain over normalised")]
    for i, name in enumerate(names):
        for form in FORMS:
            found = results[name][form]
            style = {"color": f"C{i}", "label": f"{name}, {form}"}
            iterations.loglog(results["rates"], found["iterations"], styles[form], **style)
            loss.loglog(results["rates"], found["largest loss"], styles[form], **style)
    iterations.set(xlabel="step size", ylabel="iterations to separate", title="real data")
    loss.set(xlabel="step size", ylabel="largest logistic loss on the way", title="real data")
    hard.set_ylim(1, 1e7)
    hard.legend(*hard.get_legend_handles_labels(), loc="upper left", fontsize=7, ncols=2)
    figure.legend(
        *loss.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
    )
    return figure


EXPERIMENT = Experiment(
    paper="normalized-lr",
    claim="gradient descent on the logistic loss becomes the batch perceptron as its step grows; "
    "larger steps separate in fewer iterations at a larger loss; its iterations grow as n where "
    "those of normalised descent do not (hard instance), and normalised descent at step 100 needs "
    "no more than plain descent at its best step (real data)",
    run=run,
    holds=holds,
    plot=plot,
    reported={
        "hard instance, plain, rate inf: slope in n": "1 (theorem, worst case)",
        "hard instance, normalised, rate inf: slope in n": "0 (theorem, worst case)",
    },
    remark="The limit and the worst case are as claimed: on the hard instance plain descent takes "
    "a number of iterations proportional to n, normalised descent nine at most at steps from 10 "
    "on. On real data the worst case need not show, and two pairs of digits decide: plain descent "
    "at its best step separates 1 from 7 in two iterations and 4 from 9 in 16, normalised descent "
    "at step 100 in 18 and 35, and iterations do not fall with the step throughout, as the "
    "perceptron's wander. On the tumours and on 3 and 8 all is as claimed.",
)
