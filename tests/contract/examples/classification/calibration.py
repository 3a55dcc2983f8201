import numpy as np
from kinds import Example, Keyed

from lossbench.classification import TemperatureNetwork

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(6, 3)).astype(np.float32)
VIEWS = rng.normal(size=(6, 2, 3)).astype(np.float32)
FEATURES = rng.uniform(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
NETWORK = TemperatureNetwork(
    *(rng.normal(size=shape).astype(np.float32) for shape in ((4, 5), (5,), (5,), ()))
)


def measure(**kwargs):
    return Example((LOGITS, LABELS), rows=(0, 1), result="scalar", kwargs=kwargs)


EXAMPLES = {
    "brier_score": Example((LOGITS, LABELS), rows=(0, 1)),
    "consistency_features": Example((LOGITS, VIEWS), rows=(0, 1), kwargs={"top_k": 2}),
    "correctness_auroc": measure(),
    "correctness_aware_loss": Example((LOGITS, LABELS), rows=(0, 1)),
    "correctness_balance_weights": Example((LOGITS, LABELS), rows=(0, 1)),
    "expected_calibration_error": measure(num_bins=4, scheme="mass"),
    "kolmogorov_smirnov_calibration_error": measure(),
    "network_temperatures": Example(
        (NETWORK, FEATURES),
        rows=(1,),
        traced={"min_temperature": (0.1, 0.3), "max_temperature": (10.0, 2.0)},
    ),
    "temperature_network_init": Keyed((4,)),
    "temperature_scaling": Example(
        (LOGITS + np.eye(3, dtype=np.float32)[LABELS], LABELS),
        rows=(0, 1),
        result="scalar",
        skip={"gradient": "the minimiser carries no gradient"},
    ),
}
