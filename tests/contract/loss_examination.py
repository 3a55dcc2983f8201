"""The examination of a loss or estimator: one compiled bundle, which most checks share."""

import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from assertions import assert_close, assert_finite, assert_identical, is_float, is_integer
from kinds import Example

PADDING = 3


class LossExamination:
    def __init__(self, fn: Callable[..., Any], example: Example) -> None:
        self.fn, self.example = fn, example
        args = example.args
        self.parameters = list(inspect.signature(fn).parameters)
        self.masked = "where" in self.parameters
        # Rows cannot be padded where the whole set makes one number and there is no mask.
        self.pads = bool(example.rows) and (self.masked or example.result == "per_row")
        self.slots = (
            tuple(i for i, arg in enumerate(args) if is_float(arg))
            if example.differentiable is None
            else example.differentiable
        )
        self.free = self.slots if example.free is None else example.free
        self.n = len(args[example.rows[0]]) if example.rows else 0
        self.arrays = tuple(i for i, arg in enumerate(args) if hasattr(arg, "dtype"))
        self.traces = 0

    def call(self, arrays: tuple[Any, ...], where: Any, hyper: Mapping[str, Any]) -> Any:
        args = list(self.example.args)
        for i, array in zip(self.arrays, arrays, strict=True):
            args[i] = array
        mask = {"where": where} if self.masked else {}
        return self.example.part(self.fn(*args, **self.example.kwargs, **hyper, **mask))

    def hyper(self, which: int, dtype: Any = np.float32) -> dict[str, Any]:
        return {k: jnp.asarray(v[which], dtype) for k, v in self.example.traced.items()}

    def derivatives(self, arrays: Any, where: Any, hyper: Any, weights: Any) -> Any:
        """Value and the gradients, by arguments and hyper-parameters, of its weighted sum."""
        positions = [self.arrays.index(i) for i in self.slots]

        def total(inputs: list[Any], hyper: Any) -> tuple[Any, Any]:
            full = list(arrays)
            for p, x in zip(positions, inputs, strict=True):
                full[p] = x
            value = self.call(tuple(full), where, hyper)
            # A row's other axes get other weights, lest rows that sum to 1 look constant.
            spread = jnp.cos(jnp.arange(math.prod(value.shape[1:]), dtype=value.dtype))
            w = jnp.ones((), value.dtype)
            if value.ndim:
                w = jnp.asarray(weights, value.dtype)[: len(value)]
                w = w.reshape(-1, *[1] * (value.ndim - 1)) * spread.reshape(value.shape[1:])
            # Where the weight is 0 the value may hold anything.
            return jnp.sum(jnp.where(w == 0, 0, w * jnp.where(w == 0, 0, value))), value

        inputs = [arrays[p] for p in positions]
        grads, value = jax.grad(total, (0, 1), has_aux=True)(inputs, hyper)
        return {"value": value, "grads": grads[0], "hyper": grads[1]}

    @functools.cached_property
    def cases(self) -> dict[str, tuple[tuple[Any, ...], np.ndarray, np.ndarray]]:
        """Name -> arrays, mask and weights of every case, all of one shape."""
        extra = PADDING if self.pads else 0
        where = np.arange(self.n + extra) < self.n
        weights = np.where(where, 1 + np.cos(np.arange(self.n + extra)) / 2, 0)
        base = tuple(np.asarray(self.example.args[i]) for i in self.arrays)
        in_rows = [i in self.example.rows for i in self.arrays]
        free = [i in self.free and rows for i, rows in zip(self.arrays, in_rows, strict=True)]

        def pad(arrays: tuple[np.ndarray, ...], garbage: float | None = None) -> tuple[Any, ...]:
            out = []
            for array, rows in zip(arrays, in_rows, strict=True):
                if rows and extra:
                    tail = array[-1:].repeat(extra, 0)
                    if garbage is not None:
                        tail = np.full_like(tail, garbage if is_float(array) else 0)
                    array = np.concatenate([array, tail])
                out.append(array)
            return tuple(out)

        def change(how: Callable[[np.ndarray], np.ndarray], which: list[bool]) -> tuple[Any, ...]:
            pairs = zip(base, which, strict=True)
            return pad(tuple(how(a).astype(a.dtype) if hit else a for a, hit in pairs))

        integers = [rows and is_integer(a) for rows, a in zip(in_rows, base, strict=True)]
        floats = [is_float(a) for a in base]
        order = np.random.default_rng(0).permutation(self.n)
        shuffled = np.concatenate([order, np.arange(self.n, self.n + extra)])
        cases = {
            "plain": (pad(base), where, weights),
            "garbage": (pad(base, np.nan if self.masked else 1e3), where, weights),
            # The bfloat16 call's arguments, in float32: only the arithmetic will differ.
            "rounded": (change(lambda a: a.astype(jnp.bfloat16), floats), where, weights),
            "permuted": (change(lambda a: a[order], in_rows), where, weights[shuffled]),
        }
        hostile = {
            "identical rows": change(lambda a: a[:1].repeat(self.n, 0), in_rows),
            "zero rows": change(np.zeros_like, free),
            "one zero row": change(lambda a: np.concatenate([0 * a[:1], a[1:]]), free),
            "huge": change(lambda a: 1e4 * a / np.max(np.abs(a), initial=1), free),
            "tiny": change(lambda a: 1e-20 * a, free),
            "one class": change(lambda a: a[:1].repeat(self.n, 0), integers),
        }
        cases |= {f"hostile: {name}": (a, where, weights) for name, a in hostile.items()}
        for name, args in self.example.hostile.items():
            arrays = tuple(
                np.asarray(args[i], b.dtype) for i, b in zip(self.arrays, base, strict=True)
            )
            cases[f"hostile: {name}"] = pad(arrays), where, weights
        if self.masked:
            cases["hostile: all masked"] = pad(base, np.nan), where & False, weights
            cases["hostile: one unmasked"] = pad(base, np.nan), np.arange(len(where)) < 1, weights
        self.order = order
        return cases

    @functools.cached_property
    def program(self) -> dict[str, Any]:
        """Everything in float32 and bfloat16, compiled once and run at two hyper-parameters."""
        plain = tuple(jnp.asarray(self.example.args[i]) for i in self.arrays)
        weights = jnp.asarray(self.cases["plain"][2])
        everyone = jnp.ones(self.n, bool)
        stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.cases.values())

        def first_row(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
            pairs = zip(self.arrays, arrays, strict=True)
            return tuple(a[:1] if i in self.example.rows else a for i, a in pairs)

        @jax.jit
        def run(stack: Any, plain: Any, hyper: Any) -> dict[str, Any]:
            self.traces += 1
            out = {
                "cases": jax.vmap(lambda a, m, w: self.derivatives(a, m, hyper, w))(*stack),
                "alone": self.derivatives(plain, everyone, hyper, weights),
                "bfloat16": self.call(
                    tuple(a.astype(jnp.bfloat16) if is_float(a) else a for a in plain),
                    everyone,
                    hyper,
                ),
            }
            # Rows that know nothing of each other are alone already.
            if self.masked or not self.pads:
                out["one row"] = self.derivatives(first_row(plain), everyone[:1], hyper, weights)
            return out

        out = run(stack, plain, self.hyper(0))
        first = self.traces
        other = run(stack, plain, self.hyper(1))
        out["traces"] = first, self.traces
        out["moved"] = other["alone"]["value"]
        out["cases"] = {
            name: jax.tree.map(lambda leaf, i=i: leaf[i], out["cases"])
            for i, name in enumerate(self.cases)
        }
        return out

    def result(self) -> None:
        value = self.program["alone"]["value"]
        assert value.dtype == jnp.float32, f"float32 arguments gave {value.dtype}"
        if self.example.result == "scalar":
            assert value.shape == (), f"expected a scalar, got shape {value.shape}"
        else:
            assert value.shape[:1] == (self.n,), f"expected {self.n} rows, got shape {value.shape}"
        assert_finite(self.program["alone"], "plain value and gradients")

    def eager(self) -> None:
        arrays = tuple(self.example.args[i] for i in self.arrays)
        hyper = {k: v[0] for k, v in self.example.traced.items()}
        value = self.call(arrays, np.ones(self.n, bool), hyper)
        assert_close(value, self.program["alone"]["value"], "eager against jit")

    def vmap(self) -> None:
        plain, alone = self.program["cases"]["plain"], self.program["alone"]
        self.compare_rows(plain, alone, "vmap against a single call")

    def padding(self) -> None:
        garbage, plain = self.program["cases"]["garbage"], self.program["cases"]["plain"]
        self.compare_rows(garbage, self.program["alone"], "padded against short")
        if not self.pads:
            return
        if self.masked and self.example.result == "per_row":
            for case in (plain, garbage):
                assert not np.any(case["value"][self.n :]), "masked rows are not exactly 0"
        for grad in self.row_grads(garbage):
            assert not np.any(grad[self.n :]), "gradient of masked rows is not exactly 0"

    def row_grads(self, case: Any) -> list[Any]:
        pairs = zip(self.slots, case["grads"], strict=True)
        return [grad for i, grad in pairs if i in self.example.rows]

    def compare_rows(self, case: Any, alone: Any, what: str) -> None:
        """The first n rows of a padded case are those of the short call."""
        value = case["value"]
        assert_close(value[: self.n] if value.ndim else value, alone["value"], what)
        grads = [
            grad[: self.n] if i in self.example.rows else grad
            for i, grad in zip(self.slots, case["grads"], strict=True)
        ]
        assert_close(grads, alone["grads"], f"gradient, {what}", 1e-4)
        assert_close(case["hyper"], alone["hyper"], f"hyper-parameter gradient, {what}", 1e-4)

    def permutation(self) -> None:
        case, alone = self.program["cases"]["permuted"], self.program["alone"]
        inverse = np.argsort(self.order)
        value = case["value"]
        back = {
            "value": value[: self.n][inverse] if value.ndim else value,
            "grads": [
                grad[: self.n][inverse] if i in self.example.rows else grad
                for i, grad in zip(self.slots, case["grads"], strict=True)
            ],
            "hyper": case["hyper"],
        }
        self.compare_rows(back, alone, "rows permuted")

    def hostile(self) -> None:
        for name, case in self.program["cases"].items():
            if name.startswith("hostile"):
                assert_finite(case["value"], f"value, {name}")
                assert_finite(case["grads"], f"gradient, {name}")
                assert_finite(case["hyper"], f"hyper-parameter gradient, {name}")
            if name == "hostile: all masked":
                zeros = jax.tree.map(jnp.zeros_like, case)
                assert_identical(case, zeros, name)
        assert_finite(self.program.get("one row"), "one row")

    def bfloat16(self) -> None:
        value, expected = self.program["bfloat16"], self.program["cases"]["rounded"]["value"]
        assert value.dtype == jnp.float32, f"bfloat16 arguments gave {value.dtype}, not float32"
        assert_close(
            value,
            expected[: self.n] if value.ndim else expected,
            "bfloat16 against float32 arithmetic",
            1e-3,
        )

    def one_trace(self) -> None:
        first, second = self.program["traces"]
        assert first == second, f"traced again for other hyper-parameters: {second} traces"
        assert not self.example.traced or np.any(
            self.program["moved"] != self.program["alone"]["value"]
        ), "the hyper-parameters change nothing"

    def weak_types(self) -> None:
        """A Python number and an array give one dtype: float32, or float64 for such arguments."""
        for dtype, x64 in ((jnp.float32, False), (jnp.bfloat16, False), (jnp.float64, True)):
            with jax.enable_x64(x64):
                arrays = tuple(
                    jax.ShapeDtypeStruct(np.shape(a), dtype if is_float(a) else a.dtype)
                    for a in (self.example.args[i] for i in self.arrays)
                )
                where = np.ones(self.n, bool)
                plain = {k: v[0] for k, v in self.example.traced.items()}
                expected = jnp.promote_types(dtype, jnp.float32)
                for hyper in (plain, self.hyper(0, expected), self.hyper(0)):
                    got = jax.eval_shape(
                        functools.partial(self.call, where=where, hyper=hyper), arrays
                    )
                    kinds = {k: type(v).__name__ for k, v in hyper.items()}
                    assert got.dtype == expected, f"{dtype.__name__}, {kinds} gave {got.dtype}"

    def gradient(self) -> None:
        """Central differences along random directions, in float64."""
        if not self.slots and not self.example.traced:
            return
        with jax.enable_x64(True):
            rng = np.random.default_rng(0)
            arrays = tuple(
                jnp.asarray(a, jnp.float64) if is_float(a) else jnp.asarray(a)
                for a in (self.example.args[i] for i in self.arrays)
            )
            hyper = self.hyper(0, np.float64)
            weights = jnp.asarray(self.cases["plain"][2], jnp.float64)
            where = jnp.ones(self.n, bool)
            positions = [self.arrays.index(i) for i in self.slots]
            point = [arrays[p] for p in positions], hyper

            def total(point: Any) -> Any:
                inputs, hyper = point
                full = list(arrays)
                for p, x in zip(positions, inputs, strict=True):
                    full[p] = x
                out = self.derivatives(tuple(full), where, hyper, weights)
                return out["grads"], out["hyper"], out["value"]

            # Two directions by the arguments, one by each hyper-parameter.
            zero = jax.tree.map(np.zeros_like, point)
            directions = [
                ([rng.choice([-1.0, 1.0], np.shape(x)) for x in point[0]], zero[1])
                for _ in range(2 if positions else 0)
            ] + [(zero[0], {**zero[1], name: np.ones(())}) for name in hyper]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *directions)
            step = 1e-5

            @jax.jit
            def run(point: Any, directions: Any) -> Any:
                def value(step: Any, direction: Any) -> Any:
                    inputs, hyper = jax.tree.map(lambda x, d: x + step * d, point, direction)
                    full = list(arrays)
                    for p, x in zip(positions, inputs, strict=True):
                        full[p] = x
                    return self.call(tuple(full), where, hyper)

                def difference(direction: Any) -> Any:
                    ahead, behind = jax.vmap(value, (0, None))(jnp.array([step, -step]), direction)
                    return (ahead - behind) / (2 * step)

                return total(point)[:2], jax.vmap(difference)(directions)

            grads, differences = run(point, stacked)
            differences = np.asarray(differences)
            cotangent = np.ones(differences.shape[1:])
            if cotangent.ndim:
                spread = np.cos(np.arange(math.prod(cotangent.shape[1:])))
                w = np.asarray(weights)[: len(cotangent)].reshape(-1, *[1] * (cotangent.ndim - 1))
                cotangent = w * spread.reshape(cotangent.shape[1:])
            for direction, change in zip(directions, differences, strict=True):
                pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(direction), strict=True)
                slope = sum(float(np.sum(np.asarray(g) * d)) for g, d in pairs)
                expected = float(np.sum(cotangent * change))
                size = float(np.sum(np.abs(cotangent * change))) + 1e-3
                assert abs(slope - expected) <= 1e-6 * size, (
                    f"gradient says {slope}, finite differences {expected} "
                    f"along {'hyper-parameters' if direction[0] is zero[0] else 'arguments'}"
                )

    def rejects(self, i: int, array: Any, what: str) -> None:
        name = self.parameters[i]
        arrays = [self.example.args[i] for i in self.arrays]
        arrays[self.arrays.index(i)] = array
        shapes = tuple(jax.ShapeDtypeStruct(np.shape(a), a.dtype) for a in arrays)
        hyper = {k: v[0] for k, v in self.example.traced.items()}
        # A clash of sizes may be laid at the door of the later of two arguments.
        blamed = [name] if what != "other length" else [self.parameters[j] for j in self.arrays]
        message: str | None = None
        call = functools.partial(self.call, where=np.ones(self.n, bool), hyper=hyper)
        try:
            jax.eval_shape(call, shapes)
        except TypeError as error:
            message = str(error)
        assert message is not None, f"{what} of {name} accepted: {array.dtype}{list(array.shape)}"
        assert any(each in message for each in blamed), f"{what} of {name}: {message}"

    def wrong_shape(self) -> None:
        for i in self.arrays:
            array = np.asarray(self.example.args[i])
            annotation = self.fn.__annotations__.get(self.parameters[i])
            types = (annotation, *typing.get_args(annotation))
            dims = " ".join(getattr(each, "dim_str", "") for each in types)
            if "*" not in dims and "..." not in dims:
                self.rejects(i, array[None], "one axis more")
            if i in self.example.rows and len(self.example.rows) > 1:
                self.rejects(i, array[:-1], "other length")

    def wrong_dtype(self) -> None:
        for i in self.arrays:
            array = np.asarray(self.example.args[i])
            self.rejects(i, array.astype(bool), "boolean dtype")
            if array.ndim:  # a number may be an integer
                self.rejects(i, array.astype(np.int32 if is_float(array) else np.float32), "dtype")
