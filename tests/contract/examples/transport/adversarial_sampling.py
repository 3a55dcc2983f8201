import jax
import jax.numpy as jnp
import numpy as np
import optax
from kinds import Example, Keyed, Stateful

from lossbench.transport import (
    aas_init,
    aas_update,
    bounded_flow_init,
    bounded_flow_log_density,
    bounded_flow_sample,
)

rng = np.random.default_rng(0)
POINTS = rng.uniform(-1, 1, (6, 2)).astype(np.float32)
GRID = rng.uniform(0.5, 2, (6, 4)).astype(np.float32)
VALUES = rng.uniform(0.5, 2, 6).astype(np.float32)
LOG_DENSITY = rng.normal(size=6).astype(np.float32)
LOW, HIGH = np.full(2, -1.0, np.float32), np.full(2, 1.0, np.float32)
FLOW = bounded_flow_init(jax.random.key(0), dim=2, num_couplings=2, width=4)
ADAM = optax.adam(1e-2)


def cubic(x):
    return jnp.sum(x**3, axis=1) + jnp.prod(x, axis=1)


def gaussian(x):
    return -jnp.sum(jnp.square(x), axis=1)


FIXED = {"gradient": "the residuals and the density that weighs them are held fixed"}
ORDER = {"permutation": "the rows are the cells of a grid, whose order is their place"}
WHOLE = dict.fromkeys(
    ("bfloat16", "padding", "vmap"),
    "a grid with more rows is another grid, so the padded call is not comparable",
)
STAGE = Stateful(
    init=lambda: aas_init({"a": jnp.float32(2.0)}, FLOW, ADAM, ADAM),
    update=lambda state, number: aas_update(
        jax.random.fold_in(jax.random.key(0), number),
        state,
        lambda params, x: params["a"] * cubic(x),
        lambda params: params["a"][None] - 1,
        lambda params, x: bounded_flow_log_density(params, x, LOW, HIGH),
        lambda key, params: bounded_flow_sample(key, params, LOW, HIGH, num_points=8),
        ADAM,
        ADAM,
        solution_steps=3,
        density_steps=3,
    ),
    batches=tuple((np.int32(i),) for i in range(4)),
)
DENSITY = {"rows": (1, 2, 3), "result": "scalar"}

EXAMPLES = {
    "aas_density_objective": Example(
        (gaussian, POINTS, VALUES, LOG_DENSITY),
        **DENSITY,
        traced={"beta": (5.0, 1.0)},
        differentiable=(1,),
        free=(1, 2),
    ),
    "aas_grid_value": Example(
        (GRID, LOW, HIGH),
        rows=(0,),
        result="scalar",
        traced={"beta": (0.5, 2.0)},
        differentiable=(0,),
        skip=ORDER,
    ),
    "aas_init": STAGE,
    "aas_solution_loss": Example(
        (VALUES, LOG_DENSITY), rows=(0,), result="scalar", traced={"boundary_weight": (100.0, 10.0)}
    ),
    "aas_update": STAGE,
    "bounded_flow_init": Keyed((), {"dim": 2}),
    "bounded_flow_log_density": Example(
        (FLOW, POINTS, LOW, HIGH),
        rows=(1,),
        differentiable=(1,),
        free=(),
        traced={"margin": (0.005, 0.1), "scale_bound": (0.6, 0.4)},
    ),
    "bounded_flow_sample": Keyed((FLOW, LOW, HIGH), {"num_points": 6}),
    "das_cross_entropy": Example(
        (gaussian, POINTS, VALUES, LOG_DENSITY), **DENSITY, differentiable=(1,), free=(1, 2)
    ),
    "grid_log_density": Example((GRID, LOW, HIGH, POINTS), rows=(3,), differentiable=(0,)),
    "laplacian": Example((cubic, POINTS), rows=(1,)),
    "optimal_grid_density": Example(
        (GRID, LOW, HIGH), rows=(0,), traced={"beta": (0.5, 2.0)}, skip={**FIXED, **ORDER, **WHOLE}
    ),
    "residual_variation": Example((VALUES,), rows=(0,), result="scalar"),
    "residual_wasserstein_1d": Example(
        (VALUES, np.float32(0), np.float32(2)), rows=(0,), result="scalar", skip=ORDER
    ),
    "sample_grid_density": Keyed((GRID, LOW, HIGH), {"num_points": 6}),
}
