"""Auto-encoders as scores: (r(x) - x) / sigma^2 is the score of the data, so r samples them.

Alain and Bengio, "What Regularized Auto-Encoders Learn from the Data Generating Distribution", ICLR
2013 and JMLR 15 (2014), arXiv 1211.4246. A reconstruction `r` takes (n, d) to (n, d), each row by
itself. Its error |r(x) - x|^2 is no energy: it is sigma^4 times the score's squared norm.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lossbench._math import map_row_blocks, pairwise_squared_euclidean, widen
from lossbench._math.autodiff import Probe, draw_probes, map_axes, map_tangents, row_dot
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed

Field = Callable[[jax.Array], jax.Array]


@typed
def denoising_autoencoder_loss(
    key: PRNGKey,
    reconstruction_fn: Field,
    x: Float[AnyArray, "n *d"],
    *,
    sigma: Scalar = 0.1,
    num_noise: int = 1,
) -> Float[jax.Array, " n"]:
    """Squared error of reconstructing noised data: |r(x + sigma noise) - x|^2.

    Its minimiser is x + sigma^2 score of the noised data, exactly, for every sigma. Equal to
    2 sigma^2 `denoising_score_matching` of `reconstruction_score` at that level.

    `reconstruction_fn`: (n, *d) -> (n, *d); `x` (n, *d); `num_noise` (static) draws for each row
    are averaged. Returns (n,). `num_noise` passes.

    Alain and Bengio, JMLR 15 (2014), arXiv 1211.4246.

    >>> import jax, jax.numpy as jnp
    >>> loss = denoising_autoencoder_loss(jax.random.key(0), lambda x: x, jnp.zeros((1000, 4)))
    >>> print(loss.mean().round(2))  # d sigma^2
    0.04
    """
    x = widen(x)
    noise = jax.random.normal(key, (num_noise, *x.shape), x.dtype)
    noised = (x + sigma * noise).reshape(-1, *x.shape[1:])
    error = widen(reconstruction_fn(noised)).reshape(noise.shape) - x
    return jnp.mean(jax.vmap(row_dot)(error, error), axis=0)


@typed
def reconstruction_contractive_loss(
    reconstruction_fn: Field,
    x: Float[AnyArray, "n d"],
    *,
    sigma: Scalar = 0.1,
    key: PRNGKey | None = None,
    num_probes: int = 1,
    probe: Probe = "rademacher",
) -> Float[jax.Array, " n"]:
    """Error of reconstruction and contraction of the whole: |r(x) - x|^2 + sigma^2 |dr/dx|_F^2.

    The denoising loss up to o(sigma^2), and, in the score (r - x) / sigma^2, sigma^2 d + 2 sigma^4
    times `implicit_score_matching` + sigma^6 |d score / dx|_F^2.

    `reconstruction_fn`: (n, d) -> (n, d), each row by itself; `x` (n, d). The norm is exact by d
    tangent passes, or with a `key` estimated by `num_probes` of them (static). Returns (n,).

    Alain and Bengio, JMLR 15 (2014), arXiv 1211.4246.

    >>> import jax.numpy as jnp
    >>> print(reconstruction_contractive_loss(lambda x: x / 2, jnp.ones((1, 2)), sigma=1.0))
    [1.]
    """
    x = widen(x)
    error = widen(reconstruction_fn(x)) - x
    norm = _squared_jacobian(reconstruction_fn, x, key, num_probes, probe)
    return row_dot(error, error) + jnp.square(sigma) * norm


def _squared_jacobian(
    fn: Field, x: jax.Array, key: PRNGKey | None, num_probes: int, probe: Probe
) -> jax.Array:
    """Squared Frobenius norm of each row's Jacobian (n,)."""
    if key is None:
        return jnp.sum(map_tangents(fn, x, lambda _, tangent: row_dot(tangent, tangent)), axis=0)
    probes = draw_probes(key, probe, num_probes, x)
    tangents = jax.vmap(lambda v: jax.jvp(fn, (x,), (v,))[1])(probes)
    return jnp.mean(jax.vmap(row_dot)(tangents, tangents), axis=0)


@typed
def contractive_loss(
    encode_fn: Field,
    decode_fn: Field,
    x: Float[AnyArray, "n d"],
    *,
    penalty: Scalar = 0.1,
) -> Float[jax.Array, " n"]:
    """The classical contractive auto-encoder: only the encoder's Jacobian is penalised.

    |decode(encode(x)) - x|^2 + penalty |d encode / dx|_F^2. `encode_fn`: (n, d) -> (n, h),
    `decode_fn`: (n, h) -> (n, d), each row by itself; `x` (n, d). Returns (n,). d tangent passes of
    the encoder.

    Rifai, Vincent, Muller, Glorot and Bengio, ICML 2011.

    >>> import jax.numpy as jnp
    >>> print(contractive_loss(lambda x: 2 * x, lambda h: h / 2, jnp.ones((1, 3)), penalty=1.0))
    [12.]
    """
    x = widen(x)
    error = widen(decode_fn(encode_fn(x))) - x
    norm = _squared_jacobian(encode_fn, x, None, 1, "rademacher")
    return row_dot(error, error) + penalty * norm


@typed
def reconstruction_score(
    reconstruction_fn: Field, x: Float[AnyArray, "n *d"], *, sigma: Scalar
) -> Float[jax.Array, "n *d"]:
    """Score (r(x) - x) / sigma^2 that an auto-encoder trained at noise sigma stands for.

    `reconstruction_fn`: (n, *d) -> (n, *d); `x` (n, *d). Returns (n, *d).

    Alain and Bengio, JMLR 15 (2014), arXiv 1211.4246.

    >>> import jax.numpy as jnp
    >>> print(reconstruction_score(lambda x: x / 2, jnp.ones((1, 2)), sigma=1.0))
    [[-0.5 -0.5]]
    """
    x = widen(x)
    return (widen(reconstruction_fn(x)) - x) / jnp.square(sigma)


@typed
def optimal_reconstruction(
    data: Float[AnyArray, "m d"],
    x: Float[AnyArray, "n d"],
    *,
    sigma: Scalar,
    chunk_size: int | None = None,
) -> Float[jax.Array, "n d"]:
    """The denoising auto-encoder that a finite sample asks for, in closed form.

    E[x_0 | x_0 + sigma noise = x] for x_0 uniform over the rows of `data`: their mean, weighted by
    softmax(-|x - x_j|^2 / (2 sigma^2)). What a network reaches when it remembers its data.

    `data` (m, d); `x` (n, d); `chunk_size` rows of `x` at a time (static). Returns (n, d).
    O(n m d) time, O(chunk m) memory.

    >>> import jax.numpy as jnp
    >>> data, x = jnp.array([[-1.0], [1.0]]), jnp.array([[0.0], [9.0]])
    >>> print(optimal_reconstruction(data, x, sigma=1.0))
    [[0.]
     [1.]]
    """
    data, x = widen(data), widen(x)

    def block(rows: jax.Array) -> jax.Array:
        logits = -pairwise_squared_euclidean(rows, data) / (2 * jnp.square(sigma))
        return jax.nn.softmax(logits, axis=1) @ data

    return map_row_blocks(block, x, chunk_size=chunk_size)


@typed
def energy_difference(
    score_fn: Field,
    start: Float[AnyArray, "n d"],
    end: Float[AnyArray, "n d"],
    *,
    num_points: int = 8,
) -> Float[jax.Array, " n"]:
    """E(end) - E(start) of the energy whose score is known: minus its integral on a line.

    By Gauss and Legendre's rule with `num_points` (static). If the score is not a gradient (see
    `conservativity_gap`) the difference depends on the path, and so is no difference of energies.

    `score_fn`: (n, d) -> (n, d); `start` and `end` (n, d). Returns (n,). One pass over
    num_points n rows.

    Alain and Bengio, JMLR 15 (2014), arXiv 1211.4246.

    >>> import jax.numpy as jnp
    >>> print(energy_difference(lambda x: -x, jnp.zeros((1, 2)), jnp.ones((1, 2))).round(5))
    [1.]
    """
    start, end = widen(start), widen(end)
    nodes, weights = np.polynomial.legendre.leggauss(num_points)
    places = jnp.asarray((nodes + 1) / 2, start.dtype)[:, None, None]
    points = start + places * (end - start)
    scores = widen(score_fn(points.reshape(-1, start.shape[1]))).reshape(points.shape)
    slopes = jax.vmap(row_dot, (0, None))(scores, end - start)
    return -jnp.asarray(weights / 2, start.dtype) @ slopes


@typed
def path_integral_metropolis(
    key: PRNGKey,
    score_fn: Field,
    x: Float[AnyArray, "n d"],
    *,
    proposal_std: Scalar,
    num_steps: int,
    num_points: int = 8,
) -> tuple[Float[jax.Array, "n d"], Float[jax.Array, " n"]]:
    """Metropolis chains of a density of which only a score is known, such as an auto-encoder's.

    A proposal y = x + proposal_std noise is accepted with probability min(1, exp(E(x) - E(y))), the
    difference by `energy_difference`. n chains, side by side; `num_steps` and `num_points` static.

    Returns the chains' last points (n, d) and rates of acceptance (n,). num_points passes a step.

    Alain and Bengio, JMLR 15 (2014), arXiv 1211.4246.

    >>> import jax, jax.numpy as jnp
    >>> x, rate = path_integral_metropolis(jax.random.key(0), lambda x: -x, jnp.zeros((2000, 1)),
    ...                                    proposal_std=1.0, num_steps=50)
    >>> print(x.std().round(1))
    1.0
    """

    def step(x: jax.Array, step_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise_key, accept_key = jax.random.split(step_key)
        proposal = x + proposal_std * jax.random.normal(noise_key, x.shape, x.dtype)
        rise = energy_difference(score_fn, x, proposal, num_points=num_points)
        accept = jnp.log(jax.random.uniform(accept_key, rise.shape, rise.dtype)) < -rise
        return jnp.where(accept[:, None], proposal, x).astype(x.dtype), accept

    end, accepted = lax.scan(step, widen(x), jax.random.split(key, num_steps))
    return end, jnp.mean(accepted, axis=0, dtype=end.dtype)


@typed
def conservativity_gap(
    score_fn: Field,
    x: Float[AnyArray, "n d"],
    *,
    key: PRNGKey | None = None,
    num_probes: int = 1,
    probe: Probe = "rademacher",
) -> Float[jax.Array, " n"]:
    """How far a field is from a gradient: |J - J^T|_F^2 of its Jacobian at each row.

    Exact by d passes forward and d back, or with a `key` estimated by |J v - J^T v|^2 over
    `num_probes` (static). `score_fn`: (n, d) -> (n, d), each row by itself. Returns (n,).

    >>> import jax.numpy as jnp
    >>> rotation = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> print(conservativity_gap(lambda x: x @ rotation, jnp.ones((1, 2))))
    [8.]
    """
    x = widen(x)
    _, pullback = jax.vjp(score_fn, x)

    def gap(v: jax.Array) -> jax.Array:
        twist = jax.jvp(score_fn, (x,), (v,))[1] - pullback(v)[0]
        return row_dot(twist, twist)

    if key is not None:
        return jnp.mean(jax.vmap(gap)(draw_probes(key, probe, num_probes, x)), axis=0)

    return jnp.sum(map_axes(lambda _, direction: gap(direction), x), axis=0)
