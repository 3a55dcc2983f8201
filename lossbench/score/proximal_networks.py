"""Learned proximal networks: gradients of input-convex networks, and the loss that makes them MAP.

The gradient of a convex function psi is the proximal operator of some function R, convex or not:
f(y) = argmin_x |x - y|^2 / 2 + R(x). Trained to denoise with the proximal matching loss, f tends to
the maximum a posteriori denoiser and R to -sigma^2 log p, up to a constant (`learned_prior`).

Fang, Buchanan and Sulam, "What's in a Prior? Learned Proximal Networks for Inverse Problems", ICLR
2024, arXiv 2310.14344.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._math.autodiff import row_dot
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed


class InputConvexParams(NamedTuple):
    """Weights of an input-convex network of k layers, h wide, in d dimensions."""

    input_weights: jax.Array
    """From the input to each layer (k, d, h); of either sign."""
    hidden_weights: jax.Array
    """From each layer to the next (k - 1, h, h); nonnegative."""
    biases: jax.Array
    """(k, h)"""
    output_hidden: jax.Array
    """From the last layer to the value (h,); nonnegative."""
    output_input: jax.Array
    """From the input to the value (d,)."""

    @classmethod
    def nonnegative(cls) -> "InputConvexParams":
        """Mask of the weights that keep the network convex: they must stay at least 0.

        For `optax.masked(optax.keep_params_nonnegative(), InputConvexParams.nonnegative())`, the
        last of a chain.
        """
        return cls._make(name in ("hidden_weights", "output_hidden") for name in cls._fields)


@typed
def input_convex_init(
    key: PRNGKey,
    *,
    in_dim: int,
    hidden: int = 50,
    layers: int = 4,
    scheme: Literal["clipped", "exponential"] = "clipped",
    log_mean: Scalar = -10.0,
    log_std: Scalar = 0.1,
) -> InputConvexParams:
    """Draw the weights of an input-convex network, nonnegative where they must be.

    Uniform between -1 / sqrt(inputs) and 1 / sqrt(inputs). Those that must not be negative are cut
    at 0 ("clipped"), or exp(`log_mean` + `log_std` noise) instead ("exponential": at first hardly
    more than an affine map of the input).

    The sizes and `scheme` are static. Returns `InputConvexParams`.

    Fang, Buchanan and Sulam, ICLR 2024, arXiv 2310.14344.

    >>> import jax
    >>> params = input_convex_init(jax.random.key(0), in_dim=2, hidden=8, layers=3)
    >>> print(params.hidden_weights.shape, params.hidden_weights.min())
    (2, 8, 8) 0.0
    """
    keys = jax.random.split(key, 5)

    def uniform(key: PRNGKey, shape: tuple[int, ...], inputs: int) -> jax.Array:
        return jax.random.uniform(key, shape, minval=-1, maxval=1) / jnp.sqrt(inputs)

    def nonnegative(key: PRNGKey, shape: tuple[int, ...]) -> jax.Array:
        if scheme == "clipped":
            return jnp.maximum(uniform(key, shape, hidden), 0)
        return jnp.exp(log_mean + log_std * jax.random.normal(key, shape))

    return InputConvexParams(
        input_weights=uniform(keys[0], (layers, in_dim, hidden), in_dim),
        hidden_weights=nonnegative(keys[1], (layers - 1, hidden, hidden)),
        biases=uniform(keys[2], (layers, hidden), in_dim),
        output_hidden=nonnegative(keys[3], (hidden,)),
        output_input=uniform(keys[4], (in_dim,), in_dim),
    )


@typed
def input_convex_potential(
    params: InputConvexParams,
    x: Float[AnyArray, "n d"],
    *,
    sharpness: Scalar = 10.0,
    strong_convexity: Scalar = 0.0,
) -> Float[jax.Array, " n"]:
    """Value of an input-convex network: psi(x), smooth, and convex while the weights allow.

    z_1 = act(x H_1 + b_1), z_{k+1} = act(z_k W_k + x H_{k+1} + b_{k+1}), psi = z_K w + x h +
    strong_convexity |x|^2 / 2, act(t) = log(1 + exp(sharpness t)) / sharpness, W and w nonnegative.
    There is no constant: neither f = grad psi nor the prior's shape knows of it.

    `params` of `input_convex_init`; `x` (n, d). Returns (n,). The paper takes sharpness 10, or 100
    for photographs. O(n k h (h + d)).

    Amos, Xu and Kolter, ICML 2017, arXiv 1609.07152; Fang, Buchanan and Sulam, ICLR 2024, arXiv
    2310.14344.

    >>> import jax, jax.numpy as jnp
    >>> params = input_convex_init(jax.random.key(0), in_dim=2)
    >>> left, middle, right = input_convex_potential(params, jnp.array([[-1.0, 0], [0, 1], [1, 2]]))
    >>> print(middle <= (left + right) / 2)
    True
    """
    x = widen(x)
    sharpness = jnp.asarray(sharpness, x.dtype)

    def activation(z: jax.Array) -> jax.Array:
        return jax.nn.softplus(sharpness * z) / sharpness

    def layer(z: jax.Array, weights: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        hidden, inputs, bias = weights
        return activation(z @ hidden + x @ inputs + bias), None

    inputs, biases = params.input_weights, params.biases
    z = activation(x @ inputs[0] + biases[0])
    z, _ = lax.scan(layer, z, (params.hidden_weights, inputs[1:], biases[1:]))
    quadratic = jnp.asarray(strong_convexity, x.dtype) * row_dot(x, x) / 2
    return z @ params.output_hidden + x @ params.output_input + quadratic


@typed
def proximal_operator(
    potential_fn: Callable[[jax.Array], jax.Array], x: Float[AnyArray, "n *d"]
) -> Float[jax.Array, "n *d"]:
    """Gradient f(x) of a convex potential: the proximal operator of its prior, a denoiser.

    `potential_fn` psi: (n, *d) -> (n,), convex, each row by itself; `x` (n, *d). Returns (n, *d).
    One gradient.

    Fang, Buchanan and Sulam, ICLR 2024, arXiv 2310.14344.

    >>> import jax.numpy as jnp
    >>> soft = lambda y: jnp.sum(jnp.maximum(jnp.abs(y) - 1, 0) ** 2, axis=1) / 2  # R(x) = |x|
    >>> print(proximal_operator(soft, jnp.array([[0.5, -3.0]])))
    [[ 0. -2.]]
    """
    return jax.grad(lambda x: jnp.sum(widen(potential_fn(x))))(widen(x))


@typed
def proximal_matching_loss(
    predictions: Float[AnyArray, "n *d"], targets: Float[AnyArray, "n *d"], *, gamma: Scalar
) -> Float[jax.Array, " n"]:
    """Soft 0-1 loss of a denoiser: 1 - exp(-|predictions - targets|^2 / gamma^2).

    As gamma falls to 0 its minimiser tends to the maximum of the posterior density, where squared
    and absolute errors give the mean and the median. Gradients vanish beyond a few gamma, and are
    of size 1 / gamma within: begin with the absolute error, lower gamma in stages and the learning
    rate with it (`annealed_proximal_matching_loss`).

    `predictions` and `targets` (n, *d) in the units of `gamma`, the norm that of a whole example.
    Returns (n,), in [0, 1].

    Fang, Buchanan and Sulam, ICLR 2024, arXiv 2310.14344.

    >>> import jax.numpy as jnp
    >>> error = jnp.array([[0.0], [1.0], [100.0]])
    >>> print(proximal_matching_loss(error, 0 * error, gamma=1.0).round(4))
    [0.     0.6321 1.    ]
    """
    error = widen(predictions) - widen(targets)
    return -jnp.expm1(-row_dot(error, error) / jnp.square(jnp.asarray(gamma, error.dtype)))


@typed
def proximal_matching_width(
    step: Scalar,
    *,
    dim: int,
    pretrain_steps: int = 20_000,
    total_steps: int = 40_000,
    num_stages: int = 4,
    width_min: Scalar = 0.08,
) -> Float[jax.Array, ""]:
    """Width gamma at a step: halved from stage to stage, down to width_min sqrt(dim) in the last.

    gamma_j = width_min sqrt(dim) 2^(num_stages - 1 - j) in the j-th of `num_stages` equal stages
    between `pretrain_steps`, before which it is gamma_0, and `total_steps`.

    `dim` and the counts are static. Returns a scalar.

    Fang, Buchanan and Sulam, ICLR 2024, arXiv 2310.14344.

    >>> print([float(proximal_matching_width(step, dim=1)) for step in (0, 25_000, 39_999)])
    [0.6399999856948853, 0.3199999928474426, 0.07999999821186066]
    """
    elapsed = (widen(step) - pretrain_steps) / (total_steps - pretrain_steps)
    stage = jnp.clip(jnp.floor(num_stages * elapsed), 0, num_stages - 1)
    return (width_min * dim**0.5 * 2 ** (num_stages - 1 - stage)).astype(stage.dtype)


@typed
def annealed_proximal_matching_loss(
    predictions: Float[AnyArray, "n *d"],
    targets: Float[AnyArray, "n *d"],
    step: Scalar,
    *,
    pretrain_steps: int = 20_000,
    total_steps: int = 40_000,
    num_stages: int = 4,
    width_min: Scalar = 0.08,
) -> Float[jax.Array, " n"]:
    """The paper's training: mean absolute error first, then proximal matching, ever narrower.

    `proximal_matching_loss` at `proximal_matching_width(step)`; before `pretrain_steps` the
    absolute error, averaged over coordinates. The paper's Adam has learning rate 1e-3, then 1e-4.

    `predictions` and `targets` (n, *d); `step` may be traced, the counts are static. Returns (n,).

    Fang, Buchanan and Sulam, ICLR 2024, arXiv 2310.14344.

    >>> import jax.numpy as jnp
    >>> predictions, targets = jnp.array([[2.0]]), jnp.array([[0.0]])
    >>> for step in (0, 20_000):
    ...     print(annealed_proximal_matching_loss(predictions, targets, step).round(4))
    [2.]
    [0.9999]
    """
    gamma = proximal_matching_width(
        step,
        dim=predictions[0].size,
        pretrain_steps=pretrain_steps,
        total_steps=total_steps,
        num_stages=num_stages,
        width_min=width_min,
    )
    error = jnp.abs(widen(predictions) - widen(targets))
    absolute = jnp.mean(error.reshape(len(error), -1), axis=1)
    matching = proximal_matching_loss(predictions, targets, gamma=gamma)
    return jnp.where(jnp.asarray(step) < pretrain_steps, absolute, matching)
