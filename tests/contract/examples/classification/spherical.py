import jax.numpy as jnp
import numpy as np
from kinds import Example, Stateful

from lossbench.classification import (
    factored_output_init,
    factored_output_refresh,
    factored_output_step,
    z_loss_from_statistics,
)

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 3, 1, 0])
STATISTICS = LOGITS[np.arange(6), LABELS], np.sum(LOGITS**2, 1), np.sum(LOGITS, 1)
WEIGHTS = rng.normal(size=(4, 3)).astype(np.float32)
HIDDEN = rng.normal(size=(6, 3)).astype(np.float32)
SHARP = {"sharpness": (1.0, 3.0), "location": (0.0, 1.0)}
OF_STATISTICS = {"rows": (0, 1, 2), "kwargs": {"num_classes": 4}, "free": ()}


def step(state, hidden, labels):
    losses, by_hidden, state = factored_output_step(
        state, hidden, labels, loss_from_statistics=z_loss_from_statistics, learning_rate=0.1
    )
    return (losses, by_hidden), factored_output_refresh(state)


LAYER = Stateful(
    init=lambda: factored_output_init(WEIGHTS),
    update=step,
    batches=((HIDDEN, LABELS), (2 * HIDDEN, LABELS[::-1].copy()), (HIDDEN**2, LABELS)),
)

EXAMPLES = {
    "factored_output_init": LAYER,
    "factored_output_refresh": LAYER,
    "factored_output_statistics": Example(
        (factored_output_init(WEIGHTS), HIDDEN, LABELS),
        rows=(1, 2),
        part=lambda statistics: jnp.stack(statistics, axis=-1),
    ),
    "factored_output_step": LAYER,
    "factored_output_weights": LAYER,
    "spherical_softmax_from_statistics": Example(STATISTICS, **OF_STATISTICS),
    "spherical_softmax_loss": Example(
        (LOGITS, LABELS), rows=(0, 1), traced={"epsilon": (0.01, 0.1)}
    ),
    "spherical_squared_error_from_statistics": Example(STATISTICS, **OF_STATISTICS),
    "spherical_statistics": Example(
        (LOGITS, LABELS), rows=(0, 1), part=lambda statistics: jnp.stack(statistics, axis=-1)
    ),
    "taylor_softmax_from_statistics": Example(STATISTICS, **OF_STATISTICS),
    "taylor_softmax_loss": Example((LOGITS, LABELS), rows=(0, 1)),
    "z_loss": Example((LOGITS, LABELS), rows=(0, 1), traced=SHARP),
    "z_loss_from_statistics": Example(STATISTICS, **OF_STATISTICS, traced=SHARP),
}
