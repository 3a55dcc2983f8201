import numpy as np
from kinds import Example

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(6, 3)).astype(np.float32)
EMBEDDINGS = rng.normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0]])
CORRELATION = np.array([[0, 0.4, -0.6], [0.4, 0, 0.2], [-0.6, 0.2, 0]], np.float32)
WEIGHTS = np.array([1.5, 0.5, 1.0], np.float32)


def statistic(**traced):
    return Example(
        (LABELS,), rows=(0,), result="scalar", traced=traced, part=lambda found: found.ravel()[1]
    )


EXAMPLES = {
    "hybrid_multilabel_loss": Example(
        (LOGITS, EMBEDDINGS, LABELS, CORRELATION),
        rows=(0, 1, 2),
        kwargs={"class_weights": WEIGHTS, "positive_weights": 2 * WEIGHTS},
        traced={
            "correlation_weight": (0.5, 1.0),
            "contrastive_weight": (0.3, 0.6),
            "temperature": (0.5, 0.8),
        },
    ),
    "label_correlation_loss": Example((LOGITS, CORRELATION), rows=(0,)),
    "label_correlation_matrix": statistic(shrinkage=(0.1, 0.3)),
    "multilabel_class_weights": statistic(smoothing=(1.0, 2.0)),
    "multilabel_positive_weights": statistic(smoothing=(1.0, 2.0)),
    "weighted_binary_cross_entropy": Example((LOGITS, LABELS), rows=(0, 1)),
}
