"""The contract's example of the entropic solver."""

import jax.numpy as jnp
import numpy as np
from kinds import Solver
from ott.geometry import geometry
from ott.problems.linear import linear_problem


def problem(seed):
    # Uniform marginals: along a random direction others would lose their equal mass.
    cost = np.random.default_rng(seed).random((6, 4))
    geom = geometry.Geometry(jnp.asarray(cost, jnp.float32), epsilon=jnp.float32(0.1))
    return linear_problem.LinearProblem(geom)


def value(output):
    f = output.f - output.f.mean()
    return jnp.sin(5 * f).sum() + (output.g[0] - output.g[1]) ** 2 + output.reg_ot_cost


EXAMPLES = {"sinkhorn_newton": Solver(problem, value)}
