"""Learning an optimal transport map from samples of both sides."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed
from lossbench.train.fit import FitResult, fit
from lossbench.transport import transport_map_loss


@typed
def fit_transport_map(
    apply: Callable[..., Any],
    params: Any,
    source: Float[AnyArray, "n d"],
    target: Float[AnyArray, "m d"],
    *,
    key: PRNGKey,
    steps: int = 5000,
    batch_size: int = 256,
    optimizer: optax.GradientTransformation | None = None,
    loss: Callable[..., Any] = transport_map_loss,
    gap_weight: Scalar | Callable[[Any], Any] = 1.0,
    evaluate: Callable[..., Any] | None = None,
    log_every: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    **hyperparameters: Any,
) -> FitResult:
    """Train `apply(params, x)` to be the optimal map from one sample to another.

    Each step takes a batch of the source, in the order of `fit`'s epochs, and one of the target,
    drawn anew, and lowers `transport_map_loss`: that the images land, and by short ways.

    Args:
        apply: `(params, x) -> images`, both `(batch_size, d)`.
        params: as in `fit`.
        source: sample to be mapped, `(n, d)`.
        target: sample of where it is to land, `(m, d)`.
        key: draws the batches.
        steps: optimiser steps.
        batch_size: points of each side in a step, at most n and m.
        optimizer: by default Adam with rate 1e-3.
        loss: `(source, images, target, *, gap_weight, ...) -> scalar`.
        gap_weight: weight of the Monge gap, a number or a function of the step, such as an optax
            schedule.
        evaluate: as in `fit`; the state is the number of steps done.
        log_every: as in `fit`.
        checkpoint: as in `fit`.
        progress: as in `fit`.
        **hyperparameters: go to the loss: `cost_fn`, `max_iterations`, ...

    Raises as `fit` does; `ValueError` where a batch is larger than the target.

    Uscidda and Cuturi, "The Monge Gap", ICML 2023, arXiv 2302.04953.

    >>> import jax
    >>> x = jax.random.normal(jax.random.key(0), (32, 2))
    >>> trained = fit_transport_map(
    ...     lambda shift, x: x + shift, jax.numpy.zeros(2), x, x + 1.0, key=jax.random.key(1),
    ...     steps=60, batch_size=32, optimizer=optax.adam(0.1), gap_weight=0.0)
    >>> print(trained.params.round(1))
    [1. 1.]
    """
    if batch_size > len(target):
        raise ValueError(f"batch_size {batch_size} exceeds the {len(target)} points of target")
    loss = partial(loss, **hyperparameters)
    images = jnp.asarray(target)

    def loss_fn(params: Any, step: Any, batch: Any, key: PRNGKey) -> Any:
        chosen = jax.random.choice(key, len(images), (batch_size,), replace=False)
        weight = gap_weight(step) if callable(gap_weight) else gap_weight
        mapped = apply(params, batch["source"])
        value = loss(batch["source"], mapped, images[chosen], gap_weight=weight)
        return value, (step + 1, {})

    return fit(
        loss_fn,
        params,
        optax.adam(1e-3) if optimizer is None else optimizer,
        {"source": jnp.asarray(source)},
        jnp.int32(0),
        evaluate,
        key=key,
        steps=steps,
        batch_size=batch_size,
        log_every=log_every,
        checkpoint=checkpoint,
        progress=progress,
    )
