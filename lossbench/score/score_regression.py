"""Score estimation as regression with noisy labels, and when gradient descent on it should stop.

Han, Razaviyayn and Xu, "Neural Network-Based Score Estimation in Diffusion Models: Optimization and
Generalization", ICLR 2024, arXiv 2401.15604. The score is (scale f(x, t) - x) / std^2, f(x, t) the
mean of x_0 given x_t = x, and x_0 itself is a noisy label of f. A wide two-layer network trained
by gradient descent follows a kernel regression; run to convergence, it fits the noise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import normalize, pairwise_euclidean, safe_norm, safe_sqrt, widen
from lossbench._math.autodiff import row_dot
from lossbench._typing import AnyArray, Float, Integer, PRNGKey, Scalar, typed
from lossbench.score._common import like_rows
from lossbench.score.denoising import ScoreWeighting, score_weights
from lossbench.score.processes import Process


@typed
def regression_pairs(
    key: PRNGKey, x: Float[AnyArray, "n *d"], *, process: Process, num_noise: int = 1
) -> tuple[Float[jax.Array, "m *d"], Float[jax.Array, " m"], Float[jax.Array, "m *d"]]:
    """Draw a fixed regression set: noised data, their times, and the data as noisy labels.

    Each row of `x` (n, *d) is used `num_noise` (static) times, at uniform times of the process.
    Returns x_t (m, *d), t (m,) and x_0 (m, *d), m = n num_noise.

    >>> import jax, jax.numpy as jnp
    >>> from lossbench.score import OrnsteinUhlenbeck
    >>> x_t, t, x_0 = regression_pairs(jax.random.key(0), jnp.ones((3, 2)), num_noise=2,
    ...                                process=OrnsteinUhlenbeck(t_min=0.05, t_max=2.0))
    >>> x_t.shape, t.shape, x_0.shape
    ((6, 2), (6,), (6, 2))
    """
    targets = jnp.repeat(widen(x), num_noise, axis=0)
    time_key, noise_key = jax.random.split(key)
    t = process.sample_times(time_key, len(targets))[0].astype(targets.dtype)
    noise = jax.random.normal(noise_key, targets.shape, targets.dtype)
    return process.perturb(targets, t, noise), t, targets


@typed
def score_regression_loss(
    denoised: Float[AnyArray, "n *d"],
    x: Float[AnyArray, "n *d"],
    t: Float[AnyArray, " n"],
    *,
    process: Process,
    weighting: ScoreWeighting = "data",
) -> Float[jax.Array, " n"]:
    """Weighted squared error of predicted data, equal to denoising score matching of their score.

    q(t) (scale / std)^2 |denoised - x|^2 / 2, q of `score_weights`; "data" makes the factor 1.
    `denoised` (n, *d), predicted from noised data at `t` (n,); `x` (n, *d), the data. Returns (n,).

    Han, Razaviyayn and Xu, ICLR 2024, arXiv 2401.15604.

    >>> import jax.numpy as jnp
    >>> from lossbench.score import Karras
    >>> loss = score_regression_loss(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.array([0.5]),
    ...                              process=Karras(), weighting="noise")
    >>> print(loss)
    [4.]
    """
    error = widen(denoised) - widen(x)
    t = widen(t)
    if weighting == "data":  # where std / scale overflows, its square times its inverse's is NaN
        return row_dot(error, error) / 2
    weight = score_weights(process, t, weighting) * jnp.square(process.scale(t) / process.std(t))
    return (weight * row_dot(error, error) / 2).astype(error.dtype)


@typed
def truncated_denoised(
    denoiser_fn: Callable[..., jax.Array],
    x: Float[AnyArray, "n *d"],
    *args: Any,
    input_radius: Scalar,
    output_radius: Scalar,
) -> Float[jax.Array, "n *d"]:
    """Return a denoiser's prediction, 0 where |x| > `input_radius`, projected on a ball elsewhere.

    Far from data a network says anything; 0 makes the score that of pure noise there. The ball of
    `output_radius` holds the data, so also their means. `denoiser_fn(x (n, *d), *args)` -> (n, *d);
    `args` are handed on, such as times. Returns (n, *d). One pass.

    Han, Razaviyayn and Xu, ICLR 2024, arXiv 2401.15604.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.25], [3.0], [5.0]])
    >>> print(truncated_denoised(lambda x: 2 * x, x, input_radius=4.0, output_radius=1.0))
    [[0.5]
     [1. ]
     [0. ]]
    """
    x = widen(x)

    def norm(rows: jax.Array) -> jax.Array:
        return like_rows(safe_norm(rows.reshape(len(rows), -1)), rows)

    value = widen(denoiser_fn(x, *args))
    # The maximum keeps the division, and its derivative, away from 0.
    value = value * (output_radius / jnp.maximum(norm(value), output_radius))
    return jnp.where(norm(x) <= input_radius, value, 0).astype(x.dtype)


@typed
def relu_ntk(x: Float[AnyArray, "n d"], y: Float[AnyArray, "m d"]) -> Float[jax.Array, "n m"]:
    """Neural tangent kernel of an infinitely wide two-layer ReLU network, first layer trained.

    <x, y> (pi - angle) / (2 pi), for f(x) = m^(-1/2) sum_r a_r relu(<w_r, x>), w_r ~ N(0, I), a_r =
    +-1 fixed. `x` (n, d), `y` (m, d); append a 1 for a bias. Returns (n, m). O(n m d).

    Jacot, Gabriel and Hongler, NeurIPS 2018, arXiv 1806.07572; Han, Razaviyayn and Xu, ICLR 2024.

    >>> import jax.numpy as jnp
    >>> print(relu_ntk(jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])))
    [[1.   0.75 0.  ]]
    """
    x, y = widen(x), widen(y)
    u, v = normalize(x), normalize(y)
    # The arc cosine loses half of the digits at small angles.
    angle = 2 * jnp.arctan2(pairwise_euclidean(u, v), pairwise_euclidean(u, -v))
    inner = jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)
    return inner * (jnp.pi - angle) / (2 * jnp.pi)


@typed
def kernel_gradient_descent(
    gram: Float[AnyArray, "n n"],
    cross: Float[AnyArray, "q n"],
    targets: Float[AnyArray, "n k"],
    times: Integer[AnyArray, " t"],
    *,
    step_size: Scalar | None = None,
) -> Float[jax.Array, "t q k"]:
    """Predictions of gradient descent on kernel regression from 0, after any number of steps.

    Steps F <- F - (step_size / n) K (F - Y), in closed form from one eigendecomposition of K / n =
    U diag(l) U^T: (1 / n) K_cross U diag((1 - (1 - step_size l)^time) / l) U^T Y.

    `gram` K (n, n), positive semidefinite; `cross` (q, n), the kernel between the query points and
    the training points (`gram` again for the training points); `targets` Y (n, k); `times` (t,),
    >= 0. `step_size` is stable below 2 / the largest l; by default 1 / it. Returns
    (t, q, k). O(n^3 + t q n k). Small eigenvalues drown in float32: late times want float64.

    Han, Razaviyayn and Xu, ICLR 2024, arXiv 2401.15604.

    >>> import jax.numpy as jnp
    >>> gram, targets = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0], [1.0]])
    >>> print(kernel_gradient_descent(gram, gram, targets, jnp.array([1, 2]))[..., 0])
    [[1.   0.5 ]
     [1.   0.75]]
    """
    gram, cross, targets = widen(gram), widen(cross), widen(targets)
    n = len(gram)
    eigenvalues, vectors = jnp.linalg.eigh(gram / n)
    eigenvalues = jnp.maximum(eigenvalues, 0)
    size = 1 / eigenvalues[-1] if step_size is None else jnp.asarray(step_size, gram.dtype)
    time = jnp.asarray(times, gram.dtype)[:, None]
    rate = size * eigenvalues
    zero = eigenvalues == 0
    safe = jnp.where(zero, 1, eigenvalues)
    # Below 1 by the logarithm, for rates too small to be seen beside 1.
    slow = rate < 0.5
    gentle = -jnp.expm1(time * jnp.log1p(-jnp.where(slow, rate, 0)))
    # A time of 0 leaves 0^0, which is 1: nothing learned.
    steep = 1 - jnp.where(slow, 1, 1 - rate) ** time
    filters = jnp.where(zero, size * time, jnp.where(slow, gentle, steep) / safe)
    return jnp.einsum("qi,ti,ik->tqk", cross @ vectors / n, filters, vectors.T @ targets)


@typed
def local_rademacher_complexity(
    eigenvalues: Float[AnyArray, " n"], radius: Float[AnyArray, "*r"]
) -> Float[jax.Array, "*r"]:
    """Empirical complexity of a kernel's unit ball at a radius: sqrt(mean_i min(l_i, radius^2)).

    `eigenvalues` (n,) of K / n. Raskutti, Wainwright and Yu, JMLR 15 (2014).

    >>> import jax.numpy as jnp
    >>> print(local_rademacher_complexity(jnp.array([0.5, 0.0]), jnp.array(1.0)))
    0.5
    """
    eigenvalues, radius = jnp.maximum(widen(eigenvalues), 0), widen(radius)
    return safe_sqrt(jnp.mean(jnp.minimum(eigenvalues, jnp.square(radius)[..., None]), axis=-1))


@typed
def early_stopping_time(
    eigenvalues: Float[AnyArray, " n"],
    *,
    noise_std: Scalar,
    step_size: Scalar,
    max_time: int = 1_000_000,
) -> Integer[jax.Array, ""]:
    """When to stop gradient descent on a kernel regression, before it fits the labels' noise.

    One step before the first time tau at which the complexity at 1 / sqrt(step_size tau) exceeds
    1 / (2 e noise_std step_size tau), but at most `max_time` (static). It supposes a target of norm
    at most 1 in the kernel's space: divide targets, and `noise_std`, by the norm if it is larger.

    `eigenvalues` (n,) of K / n; `noise_std` of the labels, for one coordinate. O(n log max_time).

    Raskutti, Wainwright and Yu, JMLR 15 (2014), called by Han, Razaviyayn and Xu, ICLR 2024.

    >>> import jax.numpy as jnp
    >>> print(early_stopping_time(jnp.array([1.0, 0.1]), noise_std=0.1, step_size=1.0))
    4
    """

    def learns_noise(time: jax.Array) -> jax.Array:
        length = step_size * time.astype(widen(eigenvalues).dtype)
        complexity = local_rademacher_complexity(eigenvalues, 1 / jnp.sqrt(length))
        return jnp.asarray(2 * jnp.e * noise_std * length * complexity > 1)

    # length * complexity grows with the time, so the first such time can be bisected.
    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = low + (high - low) // 2
        above = learns_noise(middle)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    ends = jnp.asarray(0), jnp.asarray(max_time + 1)
    return lax.fori_loop(0, max_time.bit_length() + 1, halve, ends)[0]
