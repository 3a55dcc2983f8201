"""NoProp in continuous time: one network with a time for all blocks, by diffusion or by a flow.

Li, Teh and Pascanu, "NoProp: Training Neural Networks without Full Back-propagation or Full
Forward-propagation", CoLLAs 2025, arXiv 2503.24322. Time runs from noise at 0 to the class
embedding u at 1. In the diffusion z_t = sqrt(alpha_bar) u + sqrt(1 - alpha_bar) noise with
alpha_bar = sigmoid(-gamma(t)), gamma falling; `gamma_fn(t (n,))` -> (n,) acts on each time alone.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lossbench._math import widen
from lossbench._math.autodiff import row_dot
from lossbench._typing import AnyArray, Float, Integer, PRNGKey, Scalar, typed
from lossbench.score._common import like_rows
from lossbench.score.class_embeddings import Readout, class_targets, endpoint_loss, noised

TimedNetwork = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Gamma = Callable[[jax.Array], jax.Array]


class NoPropGamma(NamedTuple):
    """Parameters of a learned noise schedule, any numbers: a line and a sum of sigmoids."""

    slope: Float[AnyArray, ""]
    heights: Float[AnyArray, " w"]
    rates: Float[AnyArray, " w"]
    offsets: Float[AnyArray, " w"]


@typed
def noprop_gamma_init(width: int = 8) -> NoPropGamma:
    """Schedule of `width` (static) sigmoids that starts nearly as a line.

    >>> noprop_gamma_init(3).offsets.shape
    (3,)
    """
    centres, rate = (jnp.arange(width) + 0.5) / width, 5.0
    return NoPropGamma(
        jnp.array(1.0), jnp.full(width, -3.0), jnp.full(width, rate), -rate * centres
    )


@typed
def noprop_gamma(
    params: NoPropGamma, t: Float[AnyArray, " n"], *, start: Scalar = 4.0, end: Scalar = -4.0
) -> Float[jax.Array, " n"]:
    """Learned log noise-to-signal ratio gamma(t), monotone from `start` at t = 0 to `end` at 1.

    start + (end - start) (g(t) - g(0)) / (g(1) - g(0)), g(t) = s t + sum_j h_j sigmoid(r_j t + o_j)
    with s, h, r the softplus of the parameters. `t` in [0, 1] (n,). The ends keep alpha_bar within
    (0.018, 0.982), where its slope has not vanished.

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322; Kingma et al., NeurIPS 2021,
    arXiv 2107.00630.

    >>> import jax.numpy as jnp
    >>> print(noprop_gamma(noprop_gamma_init(), jnp.array([0.0, 1.0])).round(2))
    [ 4. -4.]
    """
    t = widen(t)
    slope, heights, rates = (jax.nn.softplus(widen(each)) for each in params[:3])

    def rise(t: jax.Array) -> jax.Array:
        return slope * t + jax.nn.sigmoid(t[..., None] * rates + widen(params.offsets)) @ heights

    low, high = rise(jnp.zeros_like(t, shape=())), rise(jnp.ones_like(t, shape=()))
    start, end = jnp.asarray(start), jnp.asarray(end)
    return (start + (end - start) * (rise(t) - low) / (high - low)).astype(t.dtype)


def _level(gamma_fn: Gamma, t: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """alpha_bar, the log signal-to-noise ratio -gamma, and the slope of the latter by t, (n,)."""
    gamma, slope = jax.jvp(gamma_fn, (t,), (jnp.ones_like(t),))
    return jax.nn.sigmoid(-gamma), -gamma, -slope


@typed
def noprop_continuous_loss(
    key: PRNGKey,
    net_fn: TimedNetwork,
    readout_fn: Readout,
    embeddings: Float[AnyArray, "c k"],
    x: Float[AnyArray, "n *d"],
    labels: Integer[AnyArray, " n"],
    *,
    gamma_fn: Gamma,
    eta: Scalar = 1.0,
) -> Float[jax.Array, " n"]:
    """Bound on the labels' negative log-likelihood in continuous time, at one random time a row.

    E[-log p(y | z_1)] + KL(q(z_0 | y), N(0, I)) + eta / 2 E_t[SNR'(t) |u(z_t, x, t) - u_y|^2], SNR
    = exp(-gamma), t uniform: `noprop_loss` for ever more blocks.

    `net_fn(z (n, k), x (n, *d), t (n,))` -> (n, k) predicts the embedding; `readout_fn(z)` -> (n,
    c) logits; `embeddings` u (c, k), fixed or learned; `gamma_fn` see `noprop_gamma`, learned too
    if it holds parameters. Returns (n,). One pass.

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322.

    >>> import jax, jax.numpy as jnp
    >>> u, y = jnp.eye(2), jnp.array([0, 1])
    >>> loss = noprop_continuous_loss(
    ...     jax.random.key(0), lambda z, x, t: x, lambda z: 100 * u[y], u, u[y], y,
    ...     gamma_fn=lambda t: 20 - 40 * t)
    >>> print(loss.round(3))
    [0. 0.]
    """
    x, embeddings = jnp.asarray(x), widen(embeddings)
    labels = jnp.asarray(labels)
    targets = class_targets(embeddings, labels)
    ends_key, time_key, noise_key = jax.random.split(key, 3)
    first, last = jax.nn.sigmoid(-gamma_fn(jnp.arange(2.0, dtype=targets.dtype)))
    t = jax.random.uniform(time_key, (len(targets),), targets.dtype)
    alpha_bar, log_snr, slope = _level(gamma_fn, t)
    error = widen(net_fn(noised(noise_key, targets, alpha_bar), x, t)) - targets
    block = eta / 2 * slope * jnp.exp(log_snr) * row_dot(error, error)
    ends = endpoint_loss(ends_key, readout_fn, targets, labels, first, last)
    return (ends + block).astype(targets.dtype)


@typed
def noprop_velocity(
    net_fn: TimedNetwork,
    z: Float[AnyArray, "n k"],
    x: Float[AnyArray, "n *d"],
    t: Float[AnyArray, " n"],
    *,
    gamma_fn: Gamma,
    field: Literal["posterior_mean", "flow"] = "posterior_mean",
) -> Float[jax.Array, "n k"]:
    """Velocity dz/dt along which a trained network turns noise into its embedding.

    "posterior_mean": (-gamma') (sqrt(alpha_bar) u(z, x, t) - (1 + alpha_bar) z / 2), the drift of
    `noprop_diffusion_sample`; "flow": (-gamma' / 2) (sqrt(alpha_bar) u(z, x, t) - alpha_bar z),
    along which z has the distribution of the diffusion without its noise.

    `net_fn` and `gamma_fn` as in `noprop_continuous_loss`; `field` is static. Returns (n, k); give
    it to `noprop_flow_sample`.

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322.

    >>> import jax.numpy as jnp
    >>> z, t = jnp.ones((1, 1)), jnp.array([0.5])
    >>> print(noprop_velocity(lambda z, x, t: 0 * z, z, z, t, gamma_fn=lambda t: 4 - 8 * t))
    [[-6.]]
    """
    z, t = widen(z), widen(t)
    alpha_bar, _, slope = (like_rows(each, z) for each in _level(gamma_fn, t))
    pull = jnp.sqrt(alpha_bar) * widen(net_fn(z, jnp.asarray(x), t))
    if field == "flow":
        return (slope / 2 * (pull - alpha_bar * z)).astype(z.dtype)
    return (slope * (pull - (1 + alpha_bar) * z / 2)).astype(z.dtype)


@typed
def noprop_diffusion_sample(
    key: PRNGKey,
    net_fn: TimedNetwork,
    z: Float[AnyArray, "n k"],
    x: Float[AnyArray, "n *d"],
    *,
    gamma_fn: Gamma,
    num_steps: int = 1000,
) -> Float[jax.Array, "n k"]:
    """Solve the diffusion that `noprop_denoise` tends to with ever more blocks, by Euler-Maruyama.

    dz = velocity dt + sqrt(-gamma' (1 - alpha_bar)) dw, the velocity that of "posterior_mean" in
    `noprop_velocity`. `z` (n, k), standard normal noise; `num_steps` is static. Returns z_1 (n, k).
    num_steps passes.

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322.

    >>> import jax, jax.numpy as jnp
    >>> z = noprop_diffusion_sample(jax.random.key(0), lambda z, x, t: 3 + 0 * z, jnp.zeros((1, 1)),
    ...                             jnp.zeros((1, 1)), gamma_fn=lambda t: 10 - 20 * t)
    >>> print(z.round(1))
    [[3.]]
    """
    z = widen(z)

    def step(z: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        step_key, t = inputs
        t = jnp.full(len(z), t)
        velocity = noprop_velocity(net_fn, z, x, t, gamma_fn=gamma_fn)
        alpha_bar, _, slope = (like_rows(each, z) for each in _level(gamma_fn, t))
        noise = jax.random.normal(step_key, z.shape, z.dtype)
        added = jnp.sqrt(slope * (1 - alpha_bar) / num_steps) * noise
        return (z + velocity / num_steps + added).astype(z.dtype), None

    times = jnp.arange(num_steps, dtype=z.dtype) / num_steps
    return lax.scan(step, z, (jax.random.split(key, num_steps), times))[0]


@typed
def noprop_flow_loss(
    key: PRNGKey,
    velocity_fn: TimedNetwork,
    embeddings: Float[AnyArray, "c k"],
    x: Float[AnyArray, "n *d"],
    labels: Integer[AnyArray, " n"],
    *,
    readout_fn: Readout | None = None,
    readout_weight: Scalar = 1.0,
) -> Float[jax.Array, " n"]:
    """Flow-matching loss of a velocity from noise to the class embedding, at a random time a row.

    mean_k (v(z_t, x, t) - (u_y - z_0))^2, z_t = (1 - t) z_0 + t u_y, z_0 standard normal. Learned
    embeddings would collapse: `readout_fn(z (n, k))` -> (n, c) logits adds `readout_weight` times
    the cross-entropy at the end that the velocity points to, z_t + (1 - t) v.

    `velocity_fn(z (n, k), x (n, *d), t (n,))` -> (n, k); `embeddings` u (c, k). Returns (n,). One
    pass.

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322; Lipman et al., ICLR 2023, arXiv 2210.02747.

    >>> import jax, jax.numpy as jnp
    >>> u, y = jnp.eye(2), jnp.array([0, 1])
    >>> exact = lambda z, x, t: (x - z) / (1 - t[:, None])
    >>> print(noprop_flow_loss(jax.random.key(0), exact, u, u[y], y).round(3))
    [0. 0.]
    """
    x, embeddings = jnp.asarray(x), widen(embeddings)
    targets = class_targets(embeddings, jnp.asarray(labels))
    time_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(time_key, (len(targets),), targets.dtype)
    start = jax.random.normal(noise_key, targets.shape, targets.dtype)
    share = like_rows(t, targets)
    z = (1 - share) * start + share * targets
    velocity = widen(velocity_fn(z, x, t))
    loss = jnp.mean(jnp.square(velocity - (targets - start)), axis=1)
    if readout_fn is not None:
        logits = widen(readout_fn(z + (1 - share) * velocity))
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        loss = loss + readout_weight * entropy
    return loss.astype(targets.dtype)


@typed
def noprop_flow_sample(
    velocity_fn: TimedNetwork,
    z: Float[AnyArray, "n k"],
    x: Float[AnyArray, "n *d"],
    *,
    num_steps: int = 1000,
    method: Literal["euler", "heun"] = "euler",
) -> Float[jax.Array, "n k"]:
    """Integrate dz/dt = v(z, x, t) from noise at t = 0 to t = 1, in even steps.

    `velocity_fn` as in `noprop_flow_loss`, or `noprop_velocity` of a network; `z` (n, k), standard
    normal noise; `num_steps` and `method` are static. Returns (n, k). num_steps passes, twice as
    many for "heun".

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322.

    >>> import jax.numpy as jnp
    >>> z = jnp.array([[2.0]])
    >>> print(noprop_flow_sample(lambda z, x, t: 1 + 0 * z, z, z, num_steps=4))
    [[3.]]
    """
    z, x = widen(z), jnp.asarray(x)

    def velocity(z: jax.Array, t: jax.Array) -> jax.Array:
        return velocity_fn(z, x, jnp.full(len(z), t))

    def step(z: jax.Array, t: jax.Array) -> tuple[jax.Array, Any]:
        first = velocity(z, t)
        ahead = z + first / num_steps
        if method == "heun":
            ahead = z + (first + velocity(ahead, t + 1 / num_steps)) / (2 * num_steps)
        return ahead.astype(z.dtype), None

    return lax.scan(step, z, jnp.arange(num_steps, dtype=z.dtype) / num_steps)[0]
