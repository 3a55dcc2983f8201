"""The Gibbs kernel of a transport problem, in strips of rows: kept whole, or formed at each use."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

Arrays = tuple[jax.Array, ...]


class Sweep(Protocol):
    """Apply `fn` to strips of the kernel and collect what it returns.

    `fn(kernel, shift, *rows) -> (row_values, column_sums)` sees `kernel = exp((g - cost) / epsilon
    - shift)` on some rows, where `shift` is a row's largest exponent (so that its largest entry is
    1), and the same rows of the arrays `rows`. Row values are joined along their last axis, column
    sums are added. A last strip may be padded: with rows where the arrays are 0, which must add
    nothing to a column.
    """

    def __call__(
        self, fn: Callable[..., tuple[Arrays, Arrays]], *rows: jax.Array
    ) -> tuple[Arrays, Arrays]: ...


def _plan(cost: jax.Array, f: jax.Array, g: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Return the plan; a potential of -inf stands for zero mass, and has no derivative."""
    mass = jnp.isfinite(f)[:, None] & jnp.isfinite(g)
    f, g = jnp.where(jnp.isfinite(f), f, 0), jnp.where(jnp.isfinite(g), g, 0)
    exponents = jnp.where(mass, (f[:, None] + g - cost) / epsilon, 0)
    return jnp.where(mass, jnp.exp(exponents), 0)


def gibbs_kernel(
    cost: jax.Array, g: jax.Array, epsilon: jax.Array, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Return the kernel that the row-wise softmin needs, and its logarithmic shift.

    The exponents are formed in the dtype of the cost and rounded only after the largest of their
    row is subtracted: what float32 then loses is relative to the kernel's entry.
    """
    exponents = (g - cost) * (1 / epsilon)  # a division takes as long as the exponential
    shift = exponents.max(-1)
    return jnp.exp((exponents - shift[:, None]).astype(dtype)), shift


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense:
    """A cost matrix, `(n, m)`; a sweep costs a product with the kernel, which is formed once."""

    cost: jax.Array

    @property
    def spread(self) -> jax.Array:
        """The largest difference between costs."""
        return self.cost.max() - self.cost.min()

    def sweep(self, g: jax.Array, epsilon: jax.Array, dtype: Any) -> Sweep:
        """Return the sweep at the potential `g`."""
        kernel, shift = gibbs_kernel(self.cost, g, epsilon, dtype)
        return lambda fn, *rows: fn(kernel, shift, *rows)

    def marginals(
        self, f: jax.Array, g: jax.Array, epsilon: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the row and column sums of the plan, for derivatives by the cost and epsilon."""
        plan = _plan(self.cost, f, g, epsilon)
        return plan.sum(1), plan.sum(0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Streamed:
    """Two point clouds; each sweep forms the kernel anew, `rows` x m at a time."""

    x: jax.Array
    y: jax.Array
    scale: jax.Array
    cost_fn: Any
    rows: int = dataclasses.field(metadata={"static": True})

    def _cost(self, x: jax.Array) -> jax.Array:
        return self.cost_fn.all_pairs(x, self.y) * self.scale

    def _strips(self, fn: Callable[..., tuple[Arrays, Arrays]], *arrays: jax.Array) -> Any:
        """Scan over strips: join the first of what `fn` returns, add up the second."""
        count = self.x.shape[0]

        def split(array: jax.Array, mode: str = "constant") -> jax.Array:
            padding = [(0, -count % self.rows), *[(0, 0)] * (array.ndim - 1)]
            return jnp.pad(array, padding, mode=mode).reshape(-1, self.rows, *array.shape[1:])

        # A cost may have no derivative at a point of zeros, but it has one at a point that exists.
        strips = (split(self.x, "edge"), *map(split, arrays))
        shapes = jax.eval_shape(fn, *jax.tree.map(lambda array: array[0], strips))[1]

        def step(sums: Arrays, strip: Arrays) -> tuple[Arrays, Arrays]:
            values, added = fn(*strip)
            return jax.tree.map(jnp.add, sums, added), values

        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        sums, values = lax.scan(jax.checkpoint(step), zeros, strips)
        joined = [jnp.moveaxis(value, 0, -2) for value in values]
        return tuple(j.reshape(*j.shape[:-2], -1)[..., :count] for j in joined), sums

    @property
    def spread(self) -> jax.Array:
        """The largest difference between costs."""

        def extremes(x: jax.Array) -> tuple[Arrays, Arrays]:
            cost = self._cost(x)
            return (cost.max(-1), cost.min(-1)), ()

        (largest, smallest), _ = self._strips(extremes)
        return largest.max() - smallest.min()

    def sweep(self, g: jax.Array, epsilon: jax.Array, dtype: Any) -> Sweep:
        """Return the sweep at the potential `g`."""

        def sweep(fn: Callable[..., Any], *rows: jax.Array) -> tuple[Arrays, Arrays]:
            def strip(x: jax.Array, *rows: jax.Array) -> Any:
                return fn(*gibbs_kernel(self._cost(x), g, epsilon, dtype), *rows)

            return self._strips(strip, *rows)

        return sweep

    def marginals(
        self, f: jax.Array, g: jax.Array, epsilon: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the row and column sums of the plan, for derivatives by the points and epsilon."""

        def sums(x: jax.Array, f: jax.Array, there: jax.Array) -> tuple[Arrays, Arrays]:
            plan = jnp.where(there[:, None], _plan(self._cost(x), f, g, epsilon), 0)
            return (plan.sum(1),), (plan.sum(0),)

        (rows,), (columns,) = self._strips(sums, f, jnp.isfinite(f))
        return rows, columns
