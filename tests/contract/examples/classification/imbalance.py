import numpy as np
from kinds import Example

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(6, 3)).astype(np.float32)
FEATURES = rng.normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
SETS = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
COUNTS = np.array([50, 20, 5])
WEIGHTS = np.array([0.5, 1.0, 1.5], np.float32)
SEPARATIONS = rng.uniform(1.0, 3.0, 6).astype(np.float32)
TEMPERATURE = {"temperature": (0.5, 0.8)}

EXAMPLES = {
    "class_balanced_weights": Example(
        (COUNTS,),
        rows=(),
        result="scalar",
        traced={"beta": (0.99, 0.9)},
        part=lambda weights: weights[0],
    ),
    "feature_separation_loss": Example(
        (FEATURES, LABELS), rows=(0, 1), kwargs={"chunk_size": 4}, traced=TEMPERATURE
    ),
    "focal_loss": Example((LOGITS, LABELS), rows=(0, 1), traced={"gamma": (2.0, 0.5)}),
    "gaussian_reweighting_errors": Example(
        (SEPARATIONS,),
        rows=(0,),
        free=(),
        traced={"imbalance": (10.0, 20.0), "weight": (2.0, 5.0), "radius": (0.3, 0.1)},
        part=lambda errors: errors[0] + 2 * errors[1],
    ),
    "label_distribution_aware_margin_loss": Example(
        (LOGITS, LABELS, COUNTS),
        rows=(0, 1),
        traced={"max_margin": (0.5, 0.2), "scale": (2.0, 5.0)},
    ),
    "multilabel_contrastive_loss": Example((FEATURES, SETS), rows=(0, 1), traced=TEMPERATURE),
    "srat_loss": Example(
        (LOGITS, FEATURES, LABELS, WEIGHTS),
        rows=(0, 1, 2),
        traced={"separation_weight": (0.7, 1.5), **TEMPERATURE},
    ),
}
