"""Sinkhorn-Newton against Sinkhorn: iterations and seconds to a marginal error of 1e-9."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import acceleration, sinkhorn

from lossbench.bench import Experiment
from lossbench.transport import sinkhorn_newton

TOLERANCE = 1e-9
SWEEPS = 5000
METHODS = ("exact", "safeguarded", "sparse", "Sinkhorn", "Sinkhorn, omega 1.5")
SIZES: dict[str, dict[str, Any]] = {
    "full": {"points": 300, "etas": (30, 300, 1200), "seeds": 3},
    "smoke": {"points": 40, "etas": (30, 300), "seeds": 1},
}
Solver = Callable[[jax.Array, jax.Array], sinkhorn.SinkhornOutput]


def assignment(key: jax.Array, n: int) -> jax.Array:
    """Costs uniform in [0, 1]."""
    return jax.random.uniform(key, (n, n))


def point_clouds(key: jax.Array, n: int) -> jax.Array:
    """Squared distances from a normal cloud to a mixture of three, scaled to at most 1."""
    x_key, y_key, component_key = jax.random.split(key, 3)
    x = jax.random.normal(x_key, (n, 2))
    centres = 2 * jnp.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
    component = jax.random.randint(component_key, (n,), 0, 3)
    y = centres[component] + 0.4 * jax.random.normal(y_key, (n, 2))
    cost = jnp.square(x[:, None] - y).sum(-1)
    return cost / cost.max()


PROBLEMS = {"assignment": assignment, "points": point_clouds}


def solvers() -> dict[str, Solver]:
    """Every method, compiled once for all problems of a size."""

    def newton(method: Any) -> Solver:
        return jax.jit(
            lambda cost, epsilon: sinkhorn_newton(
                geometry.Geometry(cost, epsilon=epsilon), tolerance=TOLERANCE / 4, method=method
            )
        )

    def sweeps(omega: float) -> Solver:
        # ott measures one marginal, every tenth sweep; both together may be twice as far off.
        make_momentum: Any = acceleration.Momentum  # a dataclass, but not to the type checker
        solver = sinkhorn.Sinkhorn(
            threshold=TOLERANCE / 4,
            max_iterations=SWEEPS,
            momentum=make_momentum(value=omega),
        )
        return jax.jit(
            lambda cost, epsilon: solver(
                linear_problem.LinearProblem(geometry.Geometry(cost, epsilon=epsilon))
            )
        )

    return {
        **{method: newton(method) for method in METHODS[:3]},
        **{name: sweeps(omega) for name, omega in zip(METHODS[3:], (1.0, 1.5), strict=True)},
    }


def marginal_error(output: sinkhorn.SinkhornOutput) -> float:
    """The L1 error of both marginals, from the potentials alone."""
    plan = np.asarray(output.matrix)
    rows, columns = 1 / plan.shape[0], 1 / plan.shape[1]
    return float(np.abs(plan.sum(1) - rows).sum() + np.abs(plan.sum(0) - columns).sum())


def concentration(cost: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Mass outside the 2n largest entries of the plan after 20 sweeps."""
    g = jnp.zeros(cost.shape[1])
    log_weight = -jnp.log(len(cost))
    for _ in range(20):
        f = log_weight - jax.nn.logsumexp(g - cost / epsilon, axis=1)
        g = log_weight - jax.nn.logsumexp(f[:, None] - cost / epsilon, axis=0)
    plan = jnp.exp(f[:, None] + g - cost / epsilon)
    return 1 - jnp.sort(plan.ravel())[-2 * len(cost) :].sum() / plan.sum()


def run(key: jax.Array, size: str) -> dict[str, Any]:
    """Solve each problem at each eta = 1 / epsilon by every method."""
    settings = SIZES[size]
    shape = (len(PROBLEMS), len(settings["etas"]), len(METHODS), settings["seeds"])
    iterations, seconds, errors = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    spread = np.zeros((len(PROBLEMS), len(settings["etas"]), settings["seeds"]))
    with jax.enable_x64(True):
        methods, outside = solvers(), jax.jit(concentration)
        for (i, problem), seed in (
            (pair, seed) for pair in enumerate(PROBLEMS.values()) for seed in range(shape[-1])
        ):
            cost = problem(jax.random.fold_in(key, seed), settings["points"]).astype(float)
            for j, eta in enumerate(settings["etas"]):
                epsilon = jnp.asarray(1 / eta)
                spread[i, j, seed] = outside(cost, epsilon)
                for k, method in enumerate(METHODS):
                    output = jax.block_until_ready(methods[method](cost, epsilon))
                    times: list[float] = []
                    # The short runs are repeated: their time is all noise otherwise.
                    while sum(times) < 0.2 and len(times) < 5:
                        start = time.perf_counter()
                        jax.block_until_ready(methods[method](cost, epsilon))
                        times.append(time.perf_counter() - start)
                    index = (i, j, k, seed)
                    seconds[index] = statistics.median(times)
                    iterations[index] = int(output.n_iters)
                    errors[index] = marginal_error(output)
    results: dict[str, Any] = {
        "eta": list(settings["etas"]),
        "iterations": iterations,
        "seconds": seconds,
        "marginal error": errors,
        "mass outside the 2n largest entries": spread.mean(-1),
        "worst marginal error of exact": errors[:, :, 0].max(),
    }
    best_sweeps, fewest = seconds[:, :, 3:].mean(-1).min(-1), iterations[:, :, 3:].mean(-1).min(-1)
    for i, name in enumerate(PROBLEMS):
        for j, eta in enumerate(settings["etas"]):
            ours = seconds[i, j, 0].mean()
            results[f"{name}, eta {eta}: times faster"] = best_sweeps[i, j] / ours
            results[f"{name}, eta {eta}: times fewer iterations"] = (
                fewest[i, j] / iterations[i, j, 0].mean()
            )
    return results


def holds(results: dict[str, Any]) -> bool:
    eta = results["eta"][-1]
    outside = results["mass outside the 2n largest entries"]
    return results["worst marginal error of exact"] < TOLERANCE and all(
        results[f"{name}, eta {eta}: times fewer iterations"] >= 20
        and results[f"{name}, eta {eta}: times faster"] >= 3
        and outside[i][-1] < outside[i][0]
        for i, name in enumerate(PROBLEMS)
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    rows = figure.subplots(2, len(PROBLEMS), sharex=True)
    for axes, quantity in zip(rows, ("seconds", "iterations"), strict=True):
        for i, name in enumerate(PROBLEMS):
            for k, method in enumerate(METHODS):
                values = np.asarray(results[quantity])[i, :, k]
                failed = (np.asarray(results["marginal error"])[i, :, k] > 10 * TOLERANCE).any(-1)
                (line,) = axes[i].loglog(results["eta"], values.mean(-1), "-", label=method)
                for marker, chosen in (("o", ~failed), ("x", failed)):
                    axes[i].loglog(
                        np.asarray(results["eta"])[chosen],
                        values.mean(-1)[chosen],
                        marker,
                        color=line.get_color(),
                    )
            axes[i].set(title=name if quantity == "seconds" else None, ylabel=quantity)
            axes[i].grid(alpha=0.3)
    for axes in rows[1]:
        axes.set_xlabel("eta = 1 / epsilon")
    rows[0, 0].legend(fontsize=8, title="x: 1e-9 not reached")
    return figure


EXPERIMENT = Experiment(
    paper="sinkhorn-newton",
    claim="at eta = 1200 Newton reaches a marginal error of 1e-9 in a twentieth of the iterations "
    "and a third of the time of the better of Sinkhorn and over-relaxed Sinkhorn, for random "
    "assignment and for points; the plan concentrates on 2n entries as eta grows",
    run=run,
    holds=holds,
    plot=plot,
    reported={
        "assignment, eta 1200: times fewer iterations": "1938 (n = 500, against plain Sinkhorn)",
        "assignment, eta 1200: times faster": "685",
    },
)
