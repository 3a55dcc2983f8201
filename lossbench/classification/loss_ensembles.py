"""Ensembles of losses: at every step the gradient of another calibrated margin loss.

Dai, "EnsLoss: Stochastic Calibrated Loss Ensembles for Preventing Overfitting in Classification",
ICML 2025, arXiv 2409.00908. Gradient descent sees a margin loss only through its derivative at the
margins of the batch. The derivative of a convex, classification-calibrated loss increases with the
margin and is negative at 0; so any negative numbers, put in the order of the margins, are one.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import argsort, sort, widen
from lossbench._typing import AnyArray, Bool, Float, Integer, PRNGKey, Scalar, typed
from lossbench.classification._common import BinaryLogits, binary_scores, label_signs


def _log1p_ratio(u: jax.Array) -> jax.Array:
    """log(1 + u) / u for u > -1, with accurate derivatives at and around 0."""
    small = jnp.abs(u) < 0.1
    near, far = jnp.where(small, u, 0), jnp.where(small, 1, u)
    series = jnp.zeros_like(near)
    for n in range(16, 0, -1):  # Taylor: the first term left out is below 1e-17 at 0.1.
        series = 1 / n - near * series
    return jnp.where(small, series, jnp.log1p(far) / far)


@typed
def inverse_box_cox(
    z: Float[AnyArray, "*shape"], *, exponent: Scalar = 0.0
) -> Float[jax.Array, "*shape"]:
    """Inverse Box-Cox transform max(1 + c z, 0)^(1/c), and e^z at exponent c = 0; of any shape.

    Where 1 + c z <= 0 it is 0 for c > 0 and infinite for c < 0.

    >>> import jax.numpy as jnp
    >>> print(inverse_box_cox(jnp.array([-2.0, 0.0, 1.0]), exponent=0.5))
    [0.   1.   2.25]
    """
    z = widen(z)
    exponent = jnp.asarray(exponent, z.dtype)
    inside = exponent * z > -1
    safe = jnp.where(inside, z, 0)
    outside = jnp.where(exponent < 0, jnp.inf, 0)
    return jnp.where(inside, jnp.exp(safe * _log1p_ratio(exponent * safe)), outside)


@typed
def ensloss_derivatives(
    key: PRNGKey,
    margins: Float[AnyArray, " n"],
    *,
    exponent: Scalar = 0.0,
    clip: Scalar = 1.0,
    superlinear_tail: bool = True,
    floor: Scalar = 1e-6,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, " n"]:
    """Derivatives of a random calibrated loss at the margins of a batch.

    Draw z_i ~ Normal(0, 1), r_i = -min(inverse_box_cox(z_i), clip), and give the least margin the
    least r, and so on in order; divide by the margin where it exceeds 1 (`superlinear_tail`,
    static: it keeps the loss bounded below); subtract `floor`, so that none vanishes. All are
    negative and increase with the margin. Equal margins are ordered by position.

    `margins` (n,), the score times the sign of the label; rows outside `where` are not ranked and
    get 0. Returns (n,) in [-clip - floor, 0), without gradient: hand them to the vector-Jacobian
    product of the margins, or call `ensloss`. O(n log n).

    Dai, ICML 2025, arXiv 2409.00908.

    >>> import jax, jax.numpy as jnp
    >>> derivatives = ensloss_derivatives(jax.random.key(0), jnp.array([0.3, -2.0, 9.0]))
    >>> bool(derivatives[1] <= derivatives[0] <= derivatives[2] < 0)
    True
    """
    margins = lax.stop_gradient(widen(margins))
    drawn = inverse_box_cox(
        jax.random.normal(key, margins.shape, margins.dtype), exponent=lax.stop_gradient(exponent)
    )
    derivatives = -jnp.minimum(drawn, lax.stop_gradient(jnp.asarray(clip, margins.dtype)))
    ranked = margins
    if where is not None:
        # Last in both orders: what is left is ranked as if it were alone.
        derivatives = jnp.where(where, derivatives, jnp.inf)
        ranked = jnp.where(where, margins, jnp.inf)
    derivatives = jnp.zeros_like(margins).at[argsort(ranked)].set(sort(derivatives))
    if superlinear_tail:
        derivatives = derivatives / jnp.maximum(margins, 1)
    derivatives -= lax.stop_gradient(jnp.asarray(floor, margins.dtype))
    return derivatives if where is None else jnp.where(where, derivatives, 0)


@typed
def ensloss(
    key: PRNGKey,
    logits: BinaryLogits,
    labels: Integer[AnyArray, " n"],
    *,
    exponent: Scalar = 0.0,
    clip: Scalar = 1.0,
    superlinear_tail: bool = True,
    floor: Scalar = 1e-6,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, " n"]:
    """EnsLoss of each example: its margin times the derivative of a random calibrated loss.

    margin_i * stop_gradient(ensloss_derivatives(key, margins)_i). The gradient of its mean is that
    of a calibrated loss which the key draws: take a new key each step. The VALUE is no loss; watch
    the error rate or the logistic loss instead. The paper's random family of generators is
    `exponent=jax.random.uniform(...)` from a key that changes every few epochs.

    `logits` (n,), for class 1 against class 0, or (n, 2), whose difference counts; `labels` (n,) in
    {0, 1}; options as in `ensloss_derivatives`; rows outside `where` are 0. Returns (n,), which
    depend on the whole batch. O(n log n).

    Dai, "EnsLoss: Stochastic Calibrated Loss Ensembles for Preventing Overfitting in
    Classification", ICML 2025, arXiv 2409.00908.

    >>> import jax, jax.numpy as jnp
    >>> logits, labels = jnp.array([0.5, -1.0]), jnp.array([1, 1])
    >>> gradient = jax.grad(lambda f: ensloss(jax.random.key(0), f, labels).sum())(logits)
    >>> bool(gradient[1] <= gradient[0] < 0)
    True
    """
    margins = binary_scores(logits)
    if where is not None:
        margins, labels = jnp.where(where, margins, 0), jnp.where(where, labels, 0)
    margins = label_signs(labels, margins.dtype) * margins
    derivatives = ensloss_derivatives(
        key,
        margins,
        exponent=exponent,
        clip=clip,
        superlinear_tail=superlinear_tail,
        floor=floor,
        where=where,
    )
    return derivatives * margins
