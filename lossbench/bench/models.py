"""Small networks for tasks and experiments (flax nnx, split into plain pytrees)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx


class Model(NamedTuple):
    """A network as two pure functions: `init(key) -> params` and `apply(params, x) -> outputs`."""

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array], dict[str, jax.Array]]


class _MLP(nnx.Module):
    def __init__(self, sizes: Sequence[int], activation: Callable, *, rngs: nnx.Rngs):
        self.activation = activation
        self.layers = nnx.List([nnx.Linear(n, m, rngs=rngs) for n, m in itertools.pairwise(sizes)])

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return {"embeddings": x, "logits": self.layers[-1](x)}


def mlp(sizes: Sequence[int], *, activation: Callable = jax.nn.relu) -> Model:
    """Return a multi-layer perceptron with `sizes` from input to logits.

    `apply` gives `embeddings`, the last hidden layer `(n, sizes[-2])`, and `logits`
    `(n, sizes[-1])`.

    >>> model = mlp((4, 8, 3))
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jax.numpy.ones((5, 4)))["logits"].shape
    (5, 3)
    """

    def build(key: jax.Array) -> _MLP:
        return _MLP(sizes, activation, rngs=nnx.Rngs(key))

    graph, _ = nnx.split(nnx.eval_shape(build, jax.random.key(0)))

    def init(key: jax.Array) -> Any:
        return nnx.to_pure_dict(nnx.state(build(key)))

    def apply(params: Any, x: jax.Array) -> dict[str, jax.Array]:
        return nnx.merge(graph, nnx.State(params))(x)

    return Model(init, apply)
