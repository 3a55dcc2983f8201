import jax.numpy as jnp
import numpy as np
from kinds import Example, Stateful

from lossbench.classification import normalize_by_logistic_weight

rng = np.random.default_rng(0)
MARGINS = rng.normal(size=6).astype(np.float32)
DIRECTION = rng.normal(size=4).astype(np.float32)
FEATURES = rng.normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0, 1, 0])
NORMALIZER = normalize_by_logistic_weight()

EXAMPLES = {
    "logistic_descent_step": Example(
        (DIRECTION, FEATURES, LABELS),
        rows=(1, 2),
        result="scalar",
        traced={"step_size": (1.5, 3.0)},
        part=lambda direction: direction[0] - 2 * direction[1],
    ),
    "normalize_by_logistic_weight": Stateful(
        init=lambda: NORMALIZER.init(DIRECTION),
        update=lambda state, gradient, margins: NORMALIZER.update(gradient, state, margins=margins),
        batches=tuple((jnp.asarray(i * DIRECTION), MARGINS * i) for i in (1, 2, 3, 4)),
    ),
    "normalized_logistic_weights": Example((MARGINS,), rows=(0,)),
    "separate": Example(
        (FEATURES, LABELS),
        rows=(0, 1),
        result="scalar",
        kwargs={"max_iterations": 7},
        traced={"step_size": (1.5, 3.0)},
        part=lambda result: result.direction[0] - 2 * result.direction[1],
        skip={"gradient": "a loop of unknown length: it carries no gradient"},
    ),
}
