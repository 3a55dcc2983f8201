"""NoProp: blocks that each learn to denoise a class embedding, and never meet in training.

Li, Teh and Pascanu, "NoProp: Training Neural Networks without Full Back-propagation or Full
Forward-propagation", CoLLAs 2025, arXiv 2503.24322. The embedding u of an example's class is
noised, z_t = sqrt(alpha_bar_t) u + sqrt(1 - alpha_bar_t) noise, from noise alone at t = 0 to all
but u at t = T. Block t predicts u from z_(t-1) and x; in prediction block follows block.

A block is `block_fn(params_t, z (n, k), x (n, *d))` -> (n, k); `params` are those of all blocks,
stacked along a leading axis T. `alpha_bar` (T + 1,) rises within (0, 1).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lossbench._math import widen
from lossbench._math.autodiff import row_dot
from lossbench._typing import AnyArray, Float, Integer, PRNGKey, Scalar, typed
from lossbench.score.class_embeddings import (
    Readout,
    class_targets,
    endpoint_loss,
    noised,
    noprop_posterior_coefficients,
)

Block = Callable[[Any, jax.Array, jax.Array], jax.Array]


def _block_error(
    key: jax.Array,
    block_fn: Block,
    params: Any,
    targets: jax.Array,
    x: jax.Array,
    alpha_bar: jax.Array,
) -> jax.Array:
    error = widen(block_fn(params, noised(key, targets, alpha_bar), x)) - targets
    return row_dot(error, error)


@typed
def noprop_block_errors(
    key: PRNGKey,
    block_fn: Block,
    params: Any,
    targets: Float[AnyArray, "n k"],
    x: Float[AnyArray, "n *d"],
    *,
    alpha_bar: Float[AnyArray, " levels"],
) -> Float[jax.Array, "t n"]:
    """Squared errors of each block's prediction of the embedding, |u_t(z_(t-1), x) - u|^2.

    z_(t-1) is drawn from its law given u, so the gradient of block t's errors by the parameters of
    another block is 0. `targets` u (n, k), each example's embedding; the rest as the module says.
    Returns (T, n), for t = 1 ... T. All blocks at once: T times the memory of one.

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322.

    >>> import jax, jax.numpy as jnp
    >>> params, u, alpha_bar = jnp.array([1.0, 0.0]), jnp.ones((3, 2)), jnp.array([0.1, 0.5, 0.9])
    >>> constant = lambda p, z, x: p * jnp.ones_like(z)
    >>> print(noprop_block_errors(jax.random.key(0), constant, params, u, u, alpha_bar=alpha_bar))
    [[0. 0. 0.]
     [2. 2. 2.]]
    """
    x, targets = jnp.asarray(x), widen(targets)
    levels = jnp.asarray(alpha_bar, targets.dtype)[:-1]

    def errors(key: jax.Array, params: Any, level: jax.Array) -> jax.Array:
        return _block_error(key, block_fn, params, targets, x, level)

    return jax.vmap(errors)(jax.random.split(key, len(levels)), params, levels)


@typed
def noprop_loss(
    key: PRNGKey,
    block_fn: Block,
    readout_fn: Readout,
    params: Any,
    embeddings: Float[AnyArray, "c k"],
    x: Float[AnyArray, "n *d"],
    labels: Integer[AnyArray, " n"],
    *,
    alpha_bar: Float[AnyArray, " levels"],
    eta: Scalar = 0.1,
    snr_cap: Scalar | None = None,
    one_block: bool = False,
) -> Float[jax.Array, " n"]:
    """Bound on the labels' negative log-likelihood, a sum of terms of which each has one block.

    E[-log p(y | z_T)] + KL(q(z_0 | y), N(0, I)) + eta / 2 sum_t (SNR_t - SNR_(t-1)) E|u_t(z_(t-1),
    x) - u_y|^2, SNR = alpha_bar / (1 - alpha_bar), p(y | z) the softmax of `readout_fn(z)` (n, c).
    Expectations are of one draw. At eta = 1 it is the exact bound. The last steps' SNR dwarfs all
    others: `snr_cap`, such as 100, keeps learned embeddings from serving the last block alone.

    `embeddings` u (c, k), fixed or learned by this loss; `x` (n, *d); `labels` (n,); the rest as
    the module says. `one_block` (static) has T times the term of one random block, the same for
    all rows, in place of the sum: its mean, at the memory of one block. Returns (n,).

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322.

    >>> import jax, jax.numpy as jnp
    >>> key, u, y, alpha_bar = jax.random.key(0), jnp.eye(2), jnp.array([0, 1]), jnp.array([0, 0.5])
    >>> perfect = lambda p, z, x: u[y]
    >>> sure = lambda z: 100 * u[y]
    >>> print(noprop_loss(key, perfect, sure, jnp.zeros(1), u, u[y], y, alpha_bar=alpha_bar))
    [0. 0.]
    """
    x, embeddings = jnp.asarray(x), widen(embeddings)
    alpha_bar = jnp.asarray(alpha_bar, embeddings.dtype)
    labels = jnp.asarray(labels)
    targets = class_targets(embeddings, labels)
    snr = alpha_bar / (1 - alpha_bar)
    if snr_cap is not None:
        snr = jnp.minimum(snr, snr_cap)
    gaps = jnp.diff(snr)
    ends_key, block_key, draw_key = jax.random.split(key, 3)
    ends = endpoint_loss(ends_key, readout_fn, targets, labels, alpha_bar[0], alpha_bar[-1])
    if one_block:
        t = jax.random.randint(draw_key, (), 0, len(gaps))
        block = jax.tree.map(lambda leaf: leaf[t], params)
        errors = _block_error(block_key, block_fn, block, targets, x, alpha_bar[t])
        weighted = len(gaps) * gaps[t] * errors
    else:
        errors = noprop_block_errors(block_key, block_fn, params, targets, x, alpha_bar=alpha_bar)
        weighted = jnp.sum(gaps[:, None] * errors, axis=0)
    return (ends + eta / 2 * weighted).astype(targets.dtype)


@typed
def noprop_denoise(
    key: PRNGKey,
    block_fn: Block,
    params: Any,
    z: Float[AnyArray, "n k"],
    x: Float[AnyArray, "n *d"],
    *,
    alpha_bar: Float[AnyArray, " levels"],
    stochastic: bool = True,
) -> Float[jax.Array, "levels n k"]:
    """Run the blocks in turn: z_t = a_t u_t(z_(t-1), x) + b_t z_(t-1) + sqrt(c_t) noise.

    a, b, c are `noprop_posterior_coefficients`. `z` (n, k), standard normal noise; `stochastic`
    (static) False leaves the later noise out. Returns z_0 ... z_T (T + 1, n, k): classify the last,
    by a readout or by the nearest embedding. T passes of a block.

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322.

    >>> import jax, jax.numpy as jnp
    >>> alpha_bar, z = jnp.array([0.0, 0.5, 1.0]), jnp.zeros((1, 1))
    >>> path = noprop_denoise(jax.random.key(0), lambda p, z, x: 3 + p + 0 * z, jnp.zeros(2), z, z,
    ...                       alpha_bar=alpha_bar)
    >>> print(path[-1])
    [[3.]]
    """
    x, z = jnp.asarray(x), widen(z)
    coefficients = noprop_posterior_coefficients(jnp.asarray(alpha_bar, z.dtype))

    def step(z: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        step_key, block, (a, b, c) = inputs
        z = a * widen(block_fn(block, z, x)) + b * z
        if stochastic:
            z = z + jnp.sqrt(c) * jax.random.normal(step_key, z.shape, z.dtype)
        return z, z

    keys = jax.random.split(key, len(coefficients[0]))
    _, path = lax.scan(step, z, (keys, params, coefficients))
    return jnp.concatenate([z[None], path])


class NoPropState(NamedTuple):
    """Parameters of all blocks, and an optimiser's state for each: leaves have an axis T first."""

    params: Any
    optimizer: Any


@typed
def noprop_init(optimizer: optax.GradientTransformation, params: Any) -> NoPropState:
    """State of `noprop_update`: the optimiser starts once for each block of `params`.

    >>> import jax.numpy as jnp, optax
    >>> noprop_init(optax.trace(0.9), jnp.zeros((10, 3))).optimizer.trace.shape
    (10, 3)
    """
    return NoPropState(params, jax.vmap(optimizer.init)(params))


@typed
def noprop_update(
    key: PRNGKey,
    state: NoPropState,
    optimizer: optax.GradientTransformation,
    block_fn: Block,
    targets: Float[AnyArray, "n k"],
    x: Float[AnyArray, "n *d"],
    *,
    alpha_bar: Float[AnyArray, " levels"],
    blocks_at_once: int | None = None,
) -> tuple[Float[jax.Array, " t"], NoPropState]:
    """Let every block take a step of its own optimiser on its own error, and nothing else.

    Block t descends the mean over rows of `noprop_block_errors`; its weight in `noprop_loss` is
    left out, since a block alone knows no other to be weighed against. Norms that the optimiser
    clips by or adapts to are the block's own.

    `targets` (n, k), the embeddings of the examples' classes, fixed; `blocks_at_once` (static)
    bounds the memory: activations and gradients of so many blocks are held, by default of all.
    Returns the blocks' errors (T,) before the step, and the state after it.

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322.

    >>> import jax, jax.numpy as jnp, optax
    >>> optimizer, u, alpha_bar = optax.sgd(0.25), jnp.ones((3, 1)), jnp.array([0.1, 0.5, 0.9])
    >>> state = noprop_init(optimizer, jnp.array([0.0, 3.0]))
    >>> constant = lambda p, z, x: p * jnp.ones_like(z)
    >>> errors, state = noprop_update(jax.random.key(0), state, optimizer, constant, u, u,
    ...                               alpha_bar=alpha_bar)
    >>> print(errors, state.params)
    [1. 4.] [0.5 2. ]
    """
    x, targets = jnp.asarray(x), widen(targets)
    levels = jnp.asarray(alpha_bar, targets.dtype)[:-1]

    def update(inputs: Any) -> tuple[jax.Array, NoPropState]:
        block_key, (params, optimizer_state), level = inputs

        def error(params: Any) -> jax.Array:
            return jnp.mean(_block_error(block_key, block_fn, params, targets, x, level))

        value, gradient = jax.value_and_grad(error)(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return value, NoPropState(optax.apply_updates(params, updates), optimizer_state)

    inputs = jax.random.split(key, len(levels)), state, levels
    if blocks_at_once is None:
        return jax.vmap(update)(inputs)
    return lax.map(update, inputs, batch_size=blocks_at_once)
