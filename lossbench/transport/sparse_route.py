"""A router for mixtures of experts by sparsity-constrained transport."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lossbench._math import widen
from lossbench._typing import AnyArray, Bool, Float, Scalar, typed
from lossbench.transport.sparse_conjugates import scatter_rows
from lossbench.transport.sparse_search import Problem, columns_at, semi_dual

# Below any similarity, but its square is finite.
_NEVER = -1e15


@typed
def sparse_ot_route(
    similarity: Float[AnyArray, "n m"],
    *,
    k: int,
    choose: Literal["tokens", "experts"] = "tokens",
    gamma: Scalar = 1.0,
    steps: int = 20,
    learning_rate: Scalar = 1e-2,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, "n m"]:
    """Combine weights of a mixture of experts, in which each expert takes at most k tokens.

    A few Adam steps from zero on the semi-dual of sparsity-constrained transport with cost
    -similarity, mass 1 a token and n / m an expert: its potential lowers what is in demand. Each
    expert takes its k best tokens under similarity plus potential, at the weight of their
    similarity; all other weights are 0. With `choose="experts"` the potential is the experts', each
    token takes its k best experts, and the experts' shares of the plan's mass are evened out (for
    k > 1 not the counts of their tokens). The choice carries no gradient, the weights do.

    Args:
        similarity: `(n, m)` of tokens and experts, the softmax of the gates over experts.
        k: capacity of an expert (choices of a token), static; best n / m.
        choose: static, who is chosen.
        gamma: strength of the regularisation, positive.
        steps: static number of Adam steps.
        learning_rate: of Adam.
        where: which tokens are there; the others get weights 0.

    Returns the weights `(n, m)`. Raises `ValueError` for k < 1. O(steps n m log k).

    Liu, Puigcerver and Blondel, ICLR 2023, arXiv 2209.15466.

    >>> import jax.numpy as jnp
    >>> similarity = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    >>> print(sparse_ot_route(similarity, k=2))
    [[0.9 0. ]
     [0.8 0. ]
     [0.  0.3]
     [0.  0.4]]
    """
    similarity = widen(similarity)
    n, m = similarity.shape
    present = jnp.ones(n, similarity.dtype) if where is None else jnp.asarray(where, jnp.float32)
    present = present.astype(similarity.dtype)
    load = jnp.full(m, jnp.sum(present) / m)
    scores = lax.stop_gradient(jnp.where(present[:, None] > 0, similarity, _NEVER))
    by_expert = choose == "tokens"
    a, b = (present, load) if by_expert else (load, present)
    problem = Problem(-scores.T if by_expert else -scores, a, b, jnp.asarray(gamma, scores.dtype))
    optimizer = optax.adam(learning_rate)

    def step(_: int, carry: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
        alpha, state = carry
        updates, state = optimizer.update(-semi_dual(alpha, problem, k).gradient, state)
        return alpha + updates, state

    start = jnp.zeros_like(a)
    alpha, _ = lax.fori_loop(0, steps, step, (start, optimizer.init(start)))
    columns = columns_at(alpha, problem, k)
    chosen = scatter_rows(jnp.ones_like(columns.values), columns.rows, len(a))
    chosen = chosen.T if by_expert else chosen
    return jnp.where((chosen > 0) & (present[:, None] > 0), similarity, 0)
