"""One examination for every public function: DESIGN.md's contract, as few compilations as it takes.

`examine(fn, example)` returns, for each check of the example's kind, None or what is wrong.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from assertions import assert_close, assert_finite, assert_identical
from kinds import Example, Keyed, Solver, Stateful
from loss_examination import LossExamination

Check = Callable[[], None]


def examine(
    fn: Callable[..., Any],
    example: Example | Stateful | Keyed | Solver,
    checks: tuple[str, ...] | None = None,
) -> dict[str, str | None]:
    """Run every check, or those named, and say what each found."""
    kinds: dict[type, type] = {
        Example: LossExamination,
        Stateful: _StatefulPair,
        Keyed: _Random,
        Solver: _Solver,
    }
    examination = kinds[type(example)](fn, example)
    # Accelerators multiply in fewer bits by default: that is the user's choice, not ours to judge.
    with jax.default_matmul_precision("highest"):
        return {check: _outcome(getattr(examination, check)) for check in checks or example.checks}


def _outcome(check: Check) -> str | None:
    try:
        check()
    except Exception as error:  # whatever a function raises is what the check reports
        return f"{type(error).__name__}: {error}"
    return None


class _StatefulPair:
    def __init__(self, _: Callable[..., Any], example: Stateful) -> None:
        self.example = example
        self.update = jax.jit(example.update)

    def run(self, update: Callable[..., Any], state: Any, batches: Any) -> tuple[list[Any], Any]:
        values = []
        for batch in batches:
            value, state = update(state, *batch)
            values.append(value)
        return values, state

    @functools.cached_property
    def whole(self) -> tuple[list[Any], Any]:
        return self.run(self.update, self.example.init(), self.example.batches)

    def state(self) -> None:
        """An update keeps the state's structure, shapes and dtypes: else no scan can carry it."""

        def shapes(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.asarray(leaf).dtype), tree)

        assert shapes(self.example.init()) == shapes(self.whole[1])
        assert str(jax.tree.structure(self.example.init())) == str(
            jax.tree.structure(self.whole[1])
        )

    def eager(self) -> None:
        eager = self.run(self.example.update, self.example.init(), self.example.batches[:1])
        jitted = self.run(self.update, self.example.init(), self.example.batches[:1])
        assert_close(eager, jitted, "eager against jit")

    def restart(self) -> None:
        """Saved half way and restored, it goes on to the same bits: there is no hidden state."""
        half = len(self.example.batches) // 2
        head, state = self.run(self.update, self.example.init(), self.example.batches[:half])
        leaves, structure = jax.tree.flatten(state)
        restored = jax.tree.unflatten(structure, [jnp.asarray(np.array(leaf)) for leaf in leaves])
        tail, end = self.run(self.update, restored, self.example.batches[half:])
        assert_identical((head + tail, end), self.whole, "restarted against unbroken")

    def finite(self) -> None:
        assert_finite(self.whole, "values and state")


class _Random:
    def __init__(self, fn: Callable[..., Any], example: Keyed) -> None:
        def call(key: Any) -> Any:
            return fn(key, *example.args, **example.kwargs)

        self.call, self.jitted = call, jax.jit(call)

    @functools.cached_property
    def keys(self) -> jax.Array:
        return jax.random.split(jax.random.key(0), 2)

    @functools.cached_property
    def drawn(self) -> Any:
        return self.jitted(self.keys[0])

    def eager(self) -> None:
        assert_close(self.call(self.keys[0]), self.drawn, "eager against jit")

    def vmap(self) -> None:
        both = jax.jit(jax.vmap(self.call))(self.keys)
        for i in range(2):
            one = jax.tree.map(lambda leaf, i=i: leaf[i], both)
            assert_close(one, self.jitted(self.keys[i]), "vmap over keys against the loop")

    def same_key(self) -> None:
        assert_identical(self.jitted(self.keys[0]), self.drawn, "same key")
        pairs = zip(*map(jax.tree.leaves, (self.drawn, self.jitted(self.keys[1]))), strict=True)
        assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs), "the key is ignored"

    def key_styles(self) -> None:
        raw = self.jitted(jax.random.key_data(self.keys[0]))
        assert_close(raw, self.drawn, "raw key against new-style key")

    def finite(self) -> None:
        assert_finite(self.drawn, "result")


class _Solver:
    def __init__(self, fn: Callable[..., Any], example: Solver) -> None:
        self.fn, self.example = fn, example
        self.jitted = jax.jit(self.call)

    def call(self, problem: Any) -> Any:
        return self.fn(problem, **self.example.kwargs)

    @functools.cached_property
    def solved(self) -> tuple[Any, Any]:
        return self.jitted(self.example.problem(0)), self.jitted(self.example.problem(1))

    def eager(self) -> None:
        eager = self.example.value(self.call(self.example.problem(0)))
        assert_close(eager, self.example.value(self.solved[0]), "eager against jit", 1e-4)

    def vmap(self) -> None:
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(self.example.problem, range(2)))
        values = jax.jit(jax.vmap(lambda problem: self.example.value(self.call(problem))))(both)
        looped = jnp.stack([self.example.value(output) for output in self.solved])
        assert_close(values, looped, "vmap over problems against the loop", 1e-4)

    def gradient(self) -> None:
        """Central differences along a random direction through the problem, in float64."""
        with jax.enable_x64(True):
            leaves, structure = jax.tree.flatten(self.example.problem(0))
            leaves = [jnp.asarray(leaf, jnp.float64) for leaf in leaves]
            rng = np.random.default_rng(0)
            direction = [1e-1 * rng.normal(size=leaf.shape) * leaf for leaf in leaves]

            @jax.jit
            def value(leaves: Any) -> Any:
                return self.example.value(self.call(jax.tree.unflatten(structure, leaves)))

            gradient = jax.jit(jax.grad(value))(leaves)
            got = sum(jnp.sum(g * d) for g, d in zip(gradient, direction, strict=True))
            step = 1e-4
            ahead, behind = (
                value([x + sign * step * d for x, d in zip(leaves, direction, strict=True)])
                for sign in (1, -1)
            )
            assert_close(got, (ahead - behind) / (2 * step), "gradient", 1e-5)

    def finite(self) -> None:
        assert_finite([self.example.value(output) for output in self.solved], "value")

    def wrong_type(self) -> None:
        parameter = next(iter(inspect.signature(self.fn).parameters))
        with pytest.raises(TypeError, match=parameter):
            self.fn("no problem", **self.example.kwargs)
