"""What a learned proximal operator is for: its prior, and inverse problems by plug and play.

Fang, Buchanan and Sulam, "What's in a Prior? Learned Proximal Networks for Inverse Problems", ICLR
2024, arXiv 2310.14344.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import safe_sqrt, widen
from lossbench._math.autodiff import map_tangents, row_dot
from lossbench._typing import AnyArray, Float, Scalar, typed
from lossbench.score.proximal_networks import proximal_operator

Potential = Callable[[jax.Array], jax.Array]
Field = Callable[[jax.Array], jax.Array]
LinearSolver = Literal["direct", "conjugate_gradient"]
_Conjugates = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


class _Search(NamedTuple):
    """Where each row stands, and after how many iterations."""

    y: jax.Array
    damping: jax.Array
    size: jax.Array
    """Squared norm of the residual."""
    iteration: jax.Array


def _solve_rows(
    linear_fn: Field, b: jax.Array, damping: jax.Array, linear_solver: LinearSolver
) -> jax.Array:
    """Solve (J + damping) p = b (n, d) row by row, J symmetric and given by its products."""
    if linear_solver == "direct":
        zeros = jnp.zeros_like(b)
        columns = map_tangents(linear_fn, zeros, lambda _, tangent: tangent)
        jacobian = jnp.moveaxis(columns, 0, 2)
        matrix = jacobian + damping[:, None, None] * jnp.eye(b.shape[1], dtype=b.dtype)
        return jnp.linalg.solve(matrix, b[..., None])[..., 0]

    def products(p: jax.Array) -> jax.Array:
        return linear_fn(p) + damping[:, None] * p

    return lax.custom_linear_solve(products, b, _conjugate_gradients, symmetric=True)


def _conjugate_gradients(products: Field, b: jax.Array) -> jax.Array:
    """Solve rows (n, d) side by side, each with its own step lengths, to a residual of 1e-6 |b|."""
    goal = 1e-12 * row_dot(b, b)

    def going(carry: _Conjugates) -> jax.Array:
        _, _, _, size, iteration = carry
        return (iteration < b.shape[1]) & jnp.any(size > goal)

    def step(carry: _Conjugates) -> _Conjugates:
        p, error, direction, size, iteration = carry
        image = products(direction)
        curvature = row_dot(direction, image)
        length = jnp.where(curvature > 0, size / jnp.where(curvature > 0, curvature, 1), 0)
        p, error = p + length[:, None] * direction, error - length[:, None] * image
        size_ahead = row_dot(error, error)
        ratio = jnp.where(size > 0, size_ahead / jnp.where(size > 0, size, 1), 0)
        return p, error, error + ratio[:, None] * direction, size_ahead, iteration + 1

    start = (jnp.zeros_like(b), b, b, row_dot(b, b), jnp.zeros((), int))
    return lax.while_loop(going, step, start)[0]


@typed
def invert_proximal(
    potential_fn: Potential,
    x: Float[AnyArray, "n d"],
    *,
    linear_solver: LinearSolver = "direct",
    max_iterations: int = 100,
    tolerance: Scalar = 1e-6,
) -> Float[jax.Array, "n d"]:
    """The point y whose proximal operator is x: grad psi(y) = x, by a damped Newton method.

    y <- y - (J + damping)^-1 (f(y) - x), f = grad psi, J its Jacobian; the damping of a row falls
    when its residual has not grown and rises, the row staying, when it has. It starts at y = x, and
    where f is flat it walks on until f bends. It differentiates implicitly, by `x` and by what
    `potential_fn` closes over; there is no derivative where J is singular.

    Args:
        potential_fn: convex psi, (n, d) -> (n,), each row by itself.
        x: points in the range of f, (n, d); others have no preimage, so look at
            `proximal_operator(potential_fn, y) - x`.
        linear_solver: static; "direct" forms J, d tangent passes an iteration, for d up to a few
            hundred; "conjugate_gradient" takes products with it only.
        max_iterations: static.
        tolerance: residual norm |f(y) - x|, against 1 + |x|, at which a row is done.

    Returns (n, d).

    Fang, Buchanan and Sulam, ICLR 2024, arXiv 2310.14344.

    >>> import jax.numpy as jnp
    >>> soft = lambda y: jnp.sum(jnp.maximum(jnp.abs(y) - 1, 0) ** 2, axis=1) / 2
    >>> print(invert_proximal(soft, jnp.array([[2.0], [-0.5]])).round(1))
    [[ 3. ]
     [-1.5]]
    """
    x = widen(x)
    limit = jnp.square(jnp.asarray(tolerance, x.dtype)) * (1 + row_dot(x, x))
    # What psi closes over becomes arguments: the loop has no reverse mode, its solution has.
    gradient_fn, consts = jax.closure_convert(lambda y: proximal_operator(potential_fn, y), x)
    return _invert(gradient_fn, linear_solver, max_iterations, x, limit, consts)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _invert(
    gradient_fn: Callable[..., jax.Array],
    linear_solver: LinearSolver,
    max_iterations: int,
    x: jax.Array,
    limit: jax.Array,
    consts: Any,
) -> jax.Array:
    least = jnp.finfo(x.dtype).eps

    def residual(y: jax.Array) -> jax.Array:
        return gradient_fn(y, *consts) - x

    def going(search: _Search) -> jax.Array:
        return (search.iteration < max_iterations) & jnp.any(search.size > limit)

    def step(search: _Search) -> _Search:
        y, damping, size, iteration = search
        error, products = jax.linearize(residual, y)
        ahead = y - _solve_rows(products, error, damping, linear_solver)
        error_ahead = residual(ahead)
        size_ahead = row_dot(error_ahead, error_ahead)
        better = size_ahead <= size
        return _Search(
            jnp.where(better[:, None], ahead, y),
            jnp.where(better, jnp.maximum(damping / 4, least), 4 * damping),
            jnp.where(better, size_ahead, size),
            iteration + 1,
        )

    error = residual(x)
    start = _Search(x, jnp.ones_like(error[:, 0]), row_dot(error, error), jnp.zeros((), int))
    return lax.while_loop(going, step, start).y


@_invert.defjvp
def _invert_jvp(
    gradient_fn: Callable[..., jax.Array],
    linear_solver: LinearSolver,
    max_iterations: int,
    primals: tuple[jax.Array, jax.Array, Any],
    tangents: tuple[jax.Array, jax.Array, Any],
) -> tuple[jax.Array, jax.Array]:
    x, limit, consts = primals
    x_dot, _, consts_dot = tangents
    y = _invert(gradient_fn, linear_solver, max_iterations, x, limit, consts)
    # f(y; consts) = x, so J dy = dx - df.
    _, change = jax.jvp(lambda consts: gradient_fn(y, *consts), (consts,), (consts_dot,))
    _, products = jax.linearize(lambda y: gradient_fn(y, *consts), y)
    return y, _solve_rows(products, x_dot - change, jnp.zeros_like(limit), linear_solver)


@typed
def learned_prior(
    potential_fn: Potential,
    x: Float[AnyArray, "n d"],
    *,
    linear_solver: LinearSolver = "direct",
    max_iterations: int = 100,
    tolerance: Scalar = 1e-6,
) -> Float[jax.Array, " n"]:
    """The function R whose proximal operator is grad psi: the prior that a denoiser has learned.

    R(x) = <x, y> - |x|^2 / 2 - psi(y), y = `invert_proximal`(x), up to a constant. For the maximum
    a posteriori denoiser at noise sigma it is -sigma^2 log p. Its gradient is y - x, by the
    envelope theorem (y held fixed); there is no second derivative.

    `potential_fn` psi: (n, d) -> (n,), convex, each row by itself; `x` (n, d), in the range of
    grad psi; the options are those of `invert_proximal`. Returns (n,).

    Fang, Buchanan and Sulam, ICLR 2024, arXiv 2310.14344.

    >>> import jax.numpy as jnp
    >>> soft = lambda y: jnp.sum(jnp.maximum(jnp.abs(y) - 1, 0) ** 2, axis=1) / 2
    >>> print(learned_prior(soft, jnp.array([[2.0], [-0.5]])).round(3))
    [2.  0.5]
    """
    x = widen(x)
    y = invert_proximal(
        potential_fn,
        x,
        linear_solver=linear_solver,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    y = lax.stop_gradient(y)
    return row_dot(x, y) - row_dot(x, x) / 2 - widen(potential_fn(y))


def _row_norm(x: jax.Array) -> jax.Array:
    return safe_sqrt(row_dot(x, x))


@typed
def plug_and_play_gradient(
    proximal_fn: Field,
    data_gradient_fn: Field,
    x: Float[AnyArray, "n *d"],
    *,
    step_size: Scalar,
    num_steps: int = 100,
) -> tuple[Float[jax.Array, "n *d"], Float[jax.Array, "num_steps n"]]:
    """Proximal gradient descent with a learned operator: x <- f(x - step_size grad h(x)).

    It descends on h + R / step_size and converges for step_size < 1 / L, L the Lipschitz constant
    of grad h.

    `proximal_fn` f and `data_gradient_fn` grad h: (n, *d) -> (n, *d); `x` (n, *d), where to start;
    `num_steps` is static. Returns the last x and how far each step moved each row
    (num_steps, n).

    Fang, Buchanan and Sulam, ICLR 2024, arXiv 2310.14344.

    >>> import jax.numpy as jnp
    >>> soft = lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0)
    >>> x, _ = plug_and_play_gradient(soft, lambda x: x - 3.0, jnp.zeros((1, 1)), step_size=0.5)
    >>> print(x.round(3))  # argmin of (x - 3)^2 / 2 + 0.5 |x| / 0.5
    [[2.]]
    """

    def step(x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        ahead = proximal_fn(x - step_size * data_gradient_fn(x)).astype(x.dtype)
        return ahead, _row_norm(ahead - x)

    return lax.scan(step, widen(x), None, num_steps)


@typed
def plug_and_play_admm(
    proximal_fn: Field,
    data_proximal_fn: Field,
    x: Float[AnyArray, "n *d"],
    *,
    num_steps: int = 100,
) -> tuple[Float[jax.Array, "n *d"], Float[jax.Array, "num_steps n"]]:
    """The alternating direction method of multipliers with a learned operator.

    x <- argmin h(x) + rho |x - (z - u)|^2 / 2; z <- f(x + u); u <- u + x - z. It descends on
    h + rho R; for h = |A x - b|^2 / 2 and a smooth, strongly monotone f it converges where rho
    exceeds the largest eigenvalue of A^T A.

    `proximal_fn` f: (n, *d) -> (n, *d); `data_proximal_fn`(v), the argmin of h + rho |. - v|^2 / 2
    (`LeastSquaresProximal`); `x` (n, *d), where z starts; `num_steps` is static. Returns the last z
    and the distances |x - z| of each step (num_steps, n).

    Fang, Buchanan and Sulam, ICLR 2024, arXiv 2310.14344.

    >>> import jax.numpy as jnp
    >>> soft = lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0)
    >>> z, _ = plug_and_play_admm(soft, lambda v: (3 + 2 * v) / 3, jnp.zeros((1, 1)))
    >>> print(z.round(3))  # argmin of (x - 3)^2 / 2 + 2 * 0.5 |x|
    [[2.]]
    """

    def step(
        carry: tuple[jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        z, u = carry
        x = data_proximal_fn(z - u)
        z = proximal_fn(x + u).astype(u.dtype)
        return (z, (u + x - z).astype(u.dtype)), _row_norm(x - z)

    x = widen(x)
    (z, _), distances = lax.scan(step, (x, jnp.zeros_like(x)), None, num_steps)
    return z, distances


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeastSquaresProximal:
    """Proximal operator of h(x) = |A x - b|^2 / 2 with weight rho, factored once.

    Called with v (n, d): (A^T A + rho)^-1 (A^T b + rho v), one b a row. Made by
    `LeastSquaresProximal.of`.

    >>> import jax.numpy as jnp
    >>> proximal = LeastSquaresProximal.of(jnp.eye(1), jnp.array([[3.0]]), rho=2.0)
    >>> print(proximal(jnp.array([[0.0]])).round(3))
    [[1.]]
    """

    factor: jax.Array
    """Lower Cholesky factor of A^T A + rho (d, d)."""
    back_projected: jax.Array
    """A^T b (n, d)."""
    rho: jax.Array

    @classmethod
    @typed
    def of(
        cls, matrix: Float[AnyArray, "k d"], b: Float[AnyArray, "n k"], *, rho: Scalar
    ) -> "LeastSquaresProximal":
        """Return the operator of `matrix` A (k, d) and measurements `b` (n, k); `rho` > 0."""
        matrix, b = widen(matrix), widen(b)
        rho = jnp.asarray(rho, matrix.dtype)
        normal = matrix.T @ matrix + rho * jnp.eye(matrix.shape[1], dtype=matrix.dtype)
        return cls(jnp.linalg.cholesky(normal), b @ matrix, rho)

    @typed
    def __call__(self, v: Float[AnyArray, "n d"]) -> Float[jax.Array, "n d"]:
        """Return argmin_x h(x) + rho |x - v|^2 / 2, row by row."""
        right = self.back_projected + self.rho * v
        return jax.scipy.linalg.cho_solve((self.factor, True), right.T).T
