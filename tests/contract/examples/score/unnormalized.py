import numpy as np
from kinds import Example, Stateful

from lossbench.score import compositional_likelihood_init, compositional_likelihood_loss

rng = np.random.default_rng(0)
LOG_P = rng.normal(size=6).astype(np.float32)
LOG_Q = rng.normal(size=6).astype(np.float32)
DATA = rng.normal(size=6).astype(np.float32)

STATEFUL = Stateful(
    init=compositional_likelihood_init,
    update=compositional_likelihood_loss,
    batches=tuple((DATA * (i + 1), LOG_P + i, LOG_Q) for i in range(4)),
)

EXAMPLES = {
    "compositional_likelihood_init": STATEFUL,
    "compositional_likelihood_loss": STATEFUL,
    "effective_sample_size": Example((LOG_P, LOG_Q), rows=(0, 1), result="scalar"),
    "log_partition_importance": Example((LOG_P, LOG_Q), rows=(0, 1), result="scalar"),
    "noise_contrastive_loss": Example(
        (LOG_P, LOG_Q),
        rows=(0, 1),
        traced={"noise_ratio": (1.0, 3.0)},
        part=lambda terms: terms[0] + terms[1],
        skip={
            "wrong_shape": "data and noise may differ in number",
        },
    ),
}
