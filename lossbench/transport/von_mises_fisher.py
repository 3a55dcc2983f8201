"""The von Mises-Fisher law on the sphere, and sliced Wasserstein over directions drawn from it.

Its density is proportional to exp(kappa <theta, loc>): uniform at kappa 0, a point far out.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import normalize, safe_sqrt, widen
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, check, typed
from lossbench.transport._common import root_of
from lossbench.transport.control_variates import (
    Bound,
    control_variate_mean,
    gaussian_control_variate,
)
from lossbench.transport.sliced import projected_wasserstein


def _concentration(kappa: Scalar, dtype: jnp.dtype) -> jax.Array:
    kappa = jnp.asarray(kappa, dtype)
    check(lambda: kappa >= 0, "kappa must be at least 0, got {kappa}", kappa=kappa)
    return kappa


def _bessel_ratios(kappa: jax.Array, dim: int) -> jax.Array:
    """I_{v+1}(kappa) / (kappa I_v(kappa)) at v = dim/2 - 1, then at each v below by whole steps.

    By I_{v-1} = I_{v+1} + (2 v / kappa) I_v downwards, which is stable and never overflows, from a
    bound (Amos, 1974) that is close where v or kappa is large.
    """
    steps = 60
    order = dim / 2 - 1 + steps
    start = 1 / (order + 0.5 + jnp.sqrt((order + 1.5) ** 2 + jnp.square(kappa)))

    def down(ratio: jax.Array, twice_order: jax.Array) -> tuple[jax.Array, jax.Array]:
        ratio = 1 / (twice_order + jnp.square(kappa) * ratio)
        return ratio, ratio

    below = dim // 2 - 1
    _, ratios = lax.scan(down, start, 2 * (order - jnp.arange(steps + below, dtype=kappa.dtype)))
    return ratios[steps - 1 :]


@typed
def vmf_mean_resultant(kappa: Scalar, dim: int) -> Float[jax.Array, ""]:
    """Length of the mean of a von Mises-Fisher law: E theta = A loc.

    A = I_{d/2}(kappa) / I_{d/2 - 1}(kappa), from 0 at kappa 0 towards 1; for d = 3 it is
    coth(kappa) - 1 / kappa. Also E theta theta' = (A / kappa) I + (1 - d A / kappa) loc loc'.

    `kappa` >= 0; `dim` d >= 2, static. Returns a scalar.

    Mardia and Jupp, "Directional Statistics", 2000, section 9.3.

    >>> print(vmf_mean_resultant(1.0, 3).round(5))
    0.31304
    """
    kappa = _concentration(kappa, widen(kappa).dtype)
    return kappa * _bessel_ratios(kappa, dim)[0]


@typed
def vmf_log_density(
    directions: Float[AnyArray, "l d"], loc: Float[AnyArray, " d"], *, kappa: Scalar
) -> Float[jax.Array, " l"]:
    """Log density of the von Mises-Fisher law, by the area of the sphere.

    kappa <theta, loc> + (d/2 - 1) log kappa - (d/2) log 2 pi - log I_{d/2 - 1}(kappa).

    `directions` (l, d) and `loc` (d,) of norm 1, d >= 2; `kappa` >= 0. Returns (l,). O(l d).

    Mardia and Jupp, "Directional Statistics", 2000, section 9.3.

    >>> import jax.numpy as jnp
    >>> print(vmf_log_density(jnp.eye(3), jnp.eye(3)[0], kappa=0.0).round(4))  # -log(4 pi)
    [-2.531 -2.531 -2.531]
    """
    directions, loc = widen(directions), widen(loc)
    kappa, dim = _concentration(kappa, directions.dtype), directions.shape[1]
    # From order 0 or 1/2, which are known, upwards through the ratios: the powers of kappa cancel.
    log_ratios = jnp.sum(jnp.log(_bessel_ratios(kappa, dim)[1:]))
    if dim % 2:
        small = kappa < 1e-3
        positive = jnp.where(small, 1, kappa)
        log_sinhc = positive + jnp.log1p(-jnp.exp(-2 * positive)) - jnp.log(2 * positive)
        first = jnp.where(small, jnp.square(kappa) / 6, log_sinhc) + jnp.log(2 / jnp.pi) / 2
    else:
        first = kappa + jnp.log(jax.scipy.special.i0e(kappa))
    log_normalizer = first + log_ratios + dim / 2 * jnp.log(2 * jnp.pi)
    return kappa * (directions @ loc) - log_normalizer


@partial(jax.jit, static_argnames=("num_samples", "dim"))
def _cosines(key: PRNGKey, kappa: jax.Array, num_samples: int, dim: int) -> jax.Array:
    """<theta, loc> of each draw: in three dimensions inverted, else by Wood's rejection."""
    if dim == 3:
        v = jax.random.uniform(key, (num_samples,), kappa.dtype)
        zero = kappa == 0
        positive = jnp.where(zero, 1, kappa)
        return 1 + jnp.where(zero, -2 * v, jnp.log1p(v * jnp.expm1(-2 * positive)) / positive)
    root = jnp.sqrt(4 * jnp.square(kappa) + (dim - 1) ** 2)
    b = (dim - 1) / (2 * kappa + root)
    a = (dim - 1 + 2 * kappa + root) / 4
    most = 4 * a * b / (1 + b) - (dim - 1) * jnp.log(dim - 1)

    def propose(
        state: tuple[PRNGKey, jax.Array, jax.Array],
    ) -> tuple[PRNGKey, jax.Array, jax.Array]:
        key, cosines, accepted = state
        key, beta_key, uniform_key = jax.random.split(key, 3)
        shape, dtype = cosines.shape, cosines.dtype
        # Beta((d - 1) / 2, (d - 1) / 2), as a coordinate of a uniform direction is but for scale.
        s = (1 + normalize(jax.random.normal(beta_key, (*shape, dim), dtype))[:, 0]) / 2
        share = 1 - (1 - b) * s
        t = 2 * a * b / share
        level = jnp.log(jax.random.uniform(uniform_key, shape, dtype, jnp.finfo(dtype).tiny))
        accept = ~accepted & ((dim - 1) * jnp.log(t) - t + most >= level)
        return key, jnp.where(accept, (1 - (1 + b) * s) / share, cosines), accepted | accept

    start = (key, jnp.zeros(num_samples, kappa.dtype), jnp.zeros(num_samples, bool))
    return lax.while_loop(lambda state: ~jnp.all(state[2]), propose, start)[1]


@typed
def sample_vmf(
    key: PRNGKey, loc: Float[AnyArray, " d"], *, kappa: Scalar, num_samples: int
) -> Float[jax.Array, "{num_samples} d"]:
    """Directions from the von Mises-Fisher law about `loc`, differentiable in `loc`.

    Draws about the first axis, carried to `loc` by a reflection, through which the derivative by
    `loc` flows; none flows to `kappa`.

    `loc` (d,) of norm 1, d >= 2; `kappa` >= 0; `num_samples` is static. Returns (num_samples, d) of
    unit rows. O(num_samples d) and a few rounds of rejection.

    Wood, "Simulation of the von Mises Fisher distribution", Communications in Statistics, 1994.

    >>> loc = jax.numpy.array([0.0, 0.0, 1.0])
    >>> samples = sample_vmf(jax.random.key(0), loc, kappa=1e4, num_samples=100)
    >>> print((samples @ loc).min() > 0.99)
    True
    """
    loc = widen(loc)
    kappa = lax.stop_gradient(_concentration(kappa, loc.dtype))
    cosine_key, tangent_key = jax.random.split(key)
    cosines = _cosines(cosine_key, kappa, num_samples, len(loc))[:, None]
    shape = (num_samples, len(loc) - 1)
    tangents = normalize(jax.random.normal(tangent_key, shape, loc.dtype))
    samples = jnp.concatenate(
        [cosines, safe_sqrt(jnp.maximum(1 - jnp.square(cosines), 0)) * tangents], axis=1
    )
    # Onto -loc and back where loc is on the axis' own side: the difference never cancels.
    sign = jnp.where(loc[0] > 0, -1, 1).astype(loc.dtype)
    normal = normalize(jnp.zeros_like(loc).at[0].set(1) - sign * loc)
    return sign * (samples - 2 * (samples @ normal)[:, None] * normal)


@typed
def vmf_sliced_wasserstein(
    key: PRNGKey,
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "m d"],
    loc: Float[AnyArray, " d"],
    *,
    kappa: Scalar = 1.0,
    num_projections: int = 100,
    p: float = 2.0,
    bound: Bound | None = None,
    x_weights: Float[AnyArray, " n"] | None = None,
    y_weights: Float[AnyArray, " m"] | None = None,
    root: bool = True,
    chunk_size: int | None = None,
) -> Float[jax.Array, ""]:
    """Sliced Wasserstein distance over directions about `loc` rather than all alike.

    (E_theta W_p^p(<theta, x>, <theta, y>))^(1/p), theta ~ vMF(loc, kappa): sliced Wasserstein at
    kappa 0, the cost along `loc` alone for kappa -> infinity. It is 0 for equal measures only,
    whatever `loc`. Differentiable in the points, the weights and `loc`; for the largest value over
    `loc` see `distributional_sliced_wasserstein`, for a learnt one `amortized_sliced_wasserstein`.

    `loc` (d,) of norm 1, d >= 2; `kappa` >= 0; `bound` (static) adds the control variates of
    `gaussian_control_variate` with "centred" coefficients, whose means are known here too; all else
    as in `sliced_wasserstein`. Returns a scalar.

    Nguyen, Nguyen and Ho, "Self-Attention Amortized Distributional Projection Optimization for
    Sliced Wasserstein Point-Cloud Reconstruction", ICML 2023, arXiv 2301.04791.

    >>> x = jax.random.normal(jax.random.key(1), (50, 3))
    >>> shift = jax.numpy.array([0.0, 0.0, 2.0])
    >>> power = vmf_sliced_wasserstein(jax.random.key(0), x, x + shift, shift / 2, bound="lower",
    ...     root=False)  # |shift|^2 (1 - 2 A / kappa) at kappa 1
    >>> print(power.round(3))
    1.496
    """
    directions = sample_vmf(key, loc, kappa=kappa, num_samples=num_projections)
    weights = {"x_weights": x_weights, "y_weights": y_weights}
    costs = projected_wasserstein(x, y, directions, p=p, chunk_size=chunk_size, **weights)
    power = jnp.mean(costs)
    if bound is not None:
        dim = directions.shape[1]
        at_loc, uniform_mean = gaussian_control_variate(
            x, y, widen(loc)[None], bound=bound, **weights
        )
        controls, _ = gaussian_control_variate(x, y, directions, bound=bound, **weights)
        # E theta' M theta = (A / kappa) tr M + (1 - d A / kappa) loc' M loc.
        share = dim * _bessel_ratios(_concentration(kappa, directions.dtype), dim)[0]
        mean = share * uniform_mean + (1 - share) * at_loc[0]
        power = control_variate_mean(costs, controls, mean).value
    return root_of(power, p) if root else power
