"""The classical estimators of a score: explicit, implicit, sliced and by finite differences.

They differ in what they need: `explicit_score_matching` the true score, `implicit_score_matching`
the exact trace of a Jacobian, `sliced_score_matching` one tangent pass a probe,
`finite_difference_score_matching` no derivative by x at all. Each aims at the density of the data
themselves; `denoising_score_matching`, the cheapest, aims at that of the noised data.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lossbench._math import widen
from lossbench._math.autodiff import Probe, draw_probes, row_dot
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed
from lossbench.score.divergence import divergence

Field = Callable[[jax.Array], jax.Array]


@typed
def explicit_score_matching(
    score_fn: Field, true_score_fn: Field, x: Float[AnyArray, "n *d"]
) -> Float[jax.Array, " n"]:
    """Half of the squared distance to a known score; the mean is half of the Fisher divergence.

    |s(x) - s*(x)|^2 / 2. `score_fn` and `true_score_fn`: (n, *d) -> (n, *d); `x` (n, *d). Returns
    (n,).

    Hyvarinen, JMLR 6 (2005).

    >>> import jax.numpy as jnp
    >>> print(explicit_score_matching(lambda x: -x, lambda x: -2 * x, jnp.ones((1, 2))))
    [1.]
    """
    x = widen(x)
    error = widen(score_fn(x)) - widen(true_score_fn(x))
    return row_dot(error, error) / 2


@typed
def implicit_score_matching(score_fn: Field, x: Float[AnyArray, "n d"]) -> Float[jax.Array, " n"]:
    """Hyvarinen's objective, |s(x)|^2 / 2 + div s(x): the explicit one without the true score.

    Their expectations differ by a constant, E |s*|^2 / 2, where the density vanishes at infinity.
    `score_fn`: (n, d) -> (n, d), each row by itself; `x` (n, d). Returns (n,). d tangent passes.

    Hyvarinen, JMLR 6 (2005).

    >>> import jax.numpy as jnp
    >>> print(implicit_score_matching(lambda x: -x, jnp.ones((1, 2))))
    [-1.]
    """
    x = widen(x)
    score = widen(score_fn(x))
    return row_dot(score, score) / 2 + divergence(lambda x: widen(score_fn(x)), x)


@typed
def sliced_score_matching(
    key: PRNGKey,
    score_fn: Field,
    x: Float[AnyArray, "n *d"],
    *,
    num_probes: int = 1,
    probe: Probe = "gaussian",
    variance_reduced: bool = True,
) -> Float[jax.Array, " n"]:
    """Hyvarinen's objective along random directions v: the mean of v^T J v + (v^T s)^2 / 2.

    `variance_reduced` (static) puts the expectation |s|^2 / 2 in the second term's place: the
    estimate of `implicit_score_matching` by Hutchinson's trace. `probe` and `num_probes` are
    static; E v v^T = I for each law, so the scale of the loss is that of `implicit_score_matching`.

    `score_fn`: (n, *d) -> (n, *d), each row by itself; `x` (n, *d). Returns (n,). One pass and
    `num_probes` tangent passes, whatever the dimension. Unbounded below on few points: a score
    that falls steeply through each of them; train on many.

    Song, Garg, Shi and Ermon, UAI 2019, arXiv 1905.07088.

    >>> import jax, jax.numpy as jnp
    >>> key, x = jax.random.key(0), jnp.ones((1, 2))
    >>> print(sliced_score_matching(key, lambda x: -x, x, probe="rademacher"))
    [-1.]
    """
    x = widen(x)
    probes = draw_probes(key, probe, num_probes, x)

    def along(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        score, tangent = jax.jvp(lambda x: widen(score_fn(x)), (x,), (v,))
        square = row_dot(score, score) if variance_reduced else jnp.square(row_dot(v, score))
        return square, row_dot(v, tangent)

    # Under vmap the pass itself, which no probe enters, is made once.
    squares, curvatures = jax.vmap(along)(probes)
    return jnp.mean(squares / 2 + curvatures, axis=0)


@typed
def finite_difference_score_matching(
    key: PRNGKey,
    energy_fn: Field,
    x: Float[AnyArray, "n *d"],
    *,
    step: Scalar = 0.1,
    num_probes: int = 1,
    probe: Probe = "sphere",
) -> Float[jax.Array, " n"]:
    """Sliced score matching of an energy by central differences: no derivative by x is taken.

    With f = -energy and w = step v: the mean over v of
    (f(x + w) - 2 f(x) + f(x - w)) / step^2 + (f(x + w) - f(x - w))^2 / (8 step^2),
    which is the sliced objective up to O(step^2).

    `energy_fn`: (n, *d) -> (n,), each row by itself; `x` (n, *d); `step` > 0: in float32, errors
    of rounding grow like 1e-7 |f| / step^2. `num_probes` and `probe` are static. Returns (n,).
    1 + 2 `num_probes` passes.

    Pang, Xu, Li, Song, Ermon and Zhu, NeurIPS 2020, arXiv 2007.03317.

    >>> import jax, jax.numpy as jnp
    >>> key, energy_fn = jax.random.key(0), lambda x: jnp.sum(x**2, axis=1) / 2
    >>> print(finite_difference_score_matching(key, energy_fn, jnp.zeros((1, 2))).round(3))
    [-2.]
    """
    x = widen(x)
    offsets = step * draw_probes(key, probe, num_probes, x)
    points = jnp.concatenate([x[None], x + offsets, x - offsets])
    values = -widen(energy_fn(points.reshape(-1, *x.shape[1:]))).reshape(-1, x.shape[0])
    ahead, behind = jnp.split(values[1:], 2)
    curvature = ahead - 2 * values[0] + behind
    return jnp.mean(curvature + jnp.square(ahead - behind) / 8, axis=0) / jnp.square(step)
