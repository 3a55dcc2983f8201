"""Langevin dynamics: plain, adjusted by Metropolis, and annealed over noise levels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._math.autodiff import row_dot
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed


@typed
def langevin(
    key: PRNGKey,
    score_fn: Callable[[jax.Array], jax.Array],
    x: Float[AnyArray, "n *d"],
    *,
    step_size: Scalar,
    num_steps: int,
) -> Float[jax.Array, "n *d"]:
    """Unadjusted Langevin dynamics, x <- x + step_size score + sqrt(2 step_size) noise.

    `score_fn`: (n, *d) -> (n, *d); `num_steps` is static. Returns (n, *d), whose law is off the
    target's by O(step_size). One pass a step.

    >>> import jax, jax.numpy as jnp
    >>> x = langevin(jax.random.key(0), lambda x: -x, jnp.zeros((1000, 1)), step_size=0.1,
    ...              num_steps=100)
    >>> print(x.std().round(1))
    1.0
    """
    size = jnp.asarray(step_size)

    def step(x: jax.Array, step_key: jax.Array) -> tuple[jax.Array, None]:
        noise = jax.random.normal(step_key, x.shape, x.dtype)
        return (x + size * score_fn(x) + jnp.sqrt(2 * size) * noise).astype(x.dtype), None

    return lax.scan(step, widen(x), jax.random.split(key, num_steps))[0]


@typed
def metropolis_langevin(
    key: PRNGKey,
    log_density_fn: Callable[[jax.Array], jax.Array],
    x: Float[AnyArray, "n *d"],
    *,
    step_size: Scalar,
    num_steps: int,
) -> tuple[Float[jax.Array, "n *d"], Float[jax.Array, " n"]]:
    """Langevin steps, each accepted by Metropolis and Hastings' rule: exact at any step size.

    y = x + step_size grad f(x) + sqrt(2 step_size) noise is accepted with probability
    min(1, p(y) q(x|y) / (p(x) q(y|x))), q the Gaussian of the proposal.

    `log_density_fn` f: (n, *d) -> (n,), up to a constant, each row by itself; `num_steps` is
    static. Returns the points (n, *d) and each chain's rate of acceptance (n,); 0.574 is best in
    high dimension. One pass and its gradient a step.

    Roberts and Tweedie, Bernoulli 2 (1996).

    >>> import jax, jax.numpy as jnp
    >>> _, rate = metropolis_langevin(jax.random.key(0), lambda x: -jnp.sum(x**2, 1) / 2,
    ...                               jnp.zeros((1000, 1)), step_size=0.1, num_steps=100)
    >>> print(rate.mean() > 0.9)
    True
    """
    size = jnp.asarray(step_size)

    def evaluate(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, pullback = jax.vjp(log_density_fn, x)
        return value, pullback(jnp.ones_like(value))[0]

    def log_proposal(to: jax.Array, x: jax.Array, score: jax.Array) -> jax.Array:
        offset = to - x - size * score
        return -row_dot(offset, offset) / (4 * size)

    def step(carry: tuple[jax.Array, ...], step_key: jax.Array) -> tuple[tuple, jax.Array]:
        x, value, score = carry
        noise_key, accept_key = jax.random.split(step_key)
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        y = (x + size * score + jnp.sqrt(2 * size) * noise).astype(x.dtype)
        value_y, score_y = evaluate(y)
        back = log_proposal(x, y, score_y) - log_proposal(y, x, score)
        uniform = jax.random.uniform(accept_key, value.shape, value.dtype)
        # A value of NaN compares as false: such a proposal is refused.
        accept = jnp.log(uniform) < value_y - value + back
        rows = accept.reshape(-1, *[1] * (x.ndim - 1))
        kept = (
            jnp.where(rows, y, x),
            jnp.where(accept, value_y, value),
            jnp.where(rows, score_y, score),
        )
        return kept, accept

    start = widen(x)
    keys = jax.random.split(key, num_steps)
    (end, _, _), accepted = lax.scan(step, (start, *evaluate(start)), keys)
    return end, jnp.mean(accepted, axis=0, dtype=end.dtype)


@typed
def annealed_langevin(
    key: PRNGKey,
    score_fn: Callable[[jax.Array, jax.Array], jax.Array],
    x: Float[AnyArray, "n *d"],
    sigmas: Float[AnyArray, " k"],
    *,
    step_scale: Scalar = 2e-5,
    steps_each: int = 100,
) -> Float[jax.Array, "n *d"]:
    """Langevin dynamics at falling noise levels, each with steps in proportion to its variance.

    At level i, h = step_scale sigma_i^2 / sigma_last^2 and x <- x + h score / 2 + sqrt(h) noise,
    `steps_each` (static) times. `score_fn(x (n, *d), sigma (n,))`; `sigmas` (k,), falling, > 0.
    Returns (n, *d).

    Song and Ermon, NeurIPS 2019, arXiv 1907.05600.

    >>> import jax, jax.numpy as jnp
    >>> exact = lambda x, sigma: (1 - x) / (sigma[:, None] ** 2 + 0.01)  # N(1, 0.1^2)
    >>> x = annealed_langevin(jax.random.key(0), exact, jnp.zeros((500, 1)),
    ...                       jnp.array([1.0, 0.1, 0.01]), step_scale=1e-4)
    >>> print(x.mean().round(1))
    1.0
    """
    sigmas = jnp.asarray(sigmas)

    def level(x: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        sigma, level_key = inputs
        half = step_scale * jnp.square(sigma / sigmas[-1]) / 2

        def score(x: jax.Array) -> jax.Array:
            return score_fn(x, jnp.full(x.shape[0], sigma))

        return langevin(level_key, score, x, step_size=half, num_steps=steps_each), None

    return lax.scan(level, widen(x), (sigmas, jax.random.split(key, len(sigmas))))[0]
