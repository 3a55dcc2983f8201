import numpy as np
from kinds import Example

from lossbench.classification import confusion_f_beta, confusion_geometric_mean

PROBABILITIES = np.array([0.2, 0.45, 0.6, 0.52, 0.8, 0.4], np.float32)
LOGITS = np.array([-1.5, -0.3, 0.4, 0.1, 1.2, -0.6], np.float32)
LABELS = np.array([0, 1, 1, 0, 1, 0])
CONFUSION = np.array([[3.0, 1.5], [0.5, 2.0]], np.float32)
AMPLIFIED = {"scale": (8.0, 20.0), "threshold": (0.5, 0.45)}


def score(**traced):
    return Example((CONFUSION,), rows=(), result="scalar", traced=traced)


EXAMPLES = {
    "amplify": Example((PROBABILITIES,), rows=(0,), traced=AMPLIFIED),
    "anyloss": Example(
        (confusion_f_beta, PROBABILITIES, LABELS), rows=(1, 2), result="scalar", traced=AMPLIFIED
    ),
    "anyloss_from_logits": Example(
        (LOGITS, LABELS),
        rows=(0, 1),
        result="scalar",
        kwargs={"metric": confusion_geometric_mean},
        traced=AMPLIFIED,
    ),
    "confusion_accuracy": score(),
    "confusion_balanced_accuracy": score(),
    "confusion_f_beta": score(beta=(1.0, 2.0)),
    "confusion_geometric_mean": score(),
    "confusion_jaccard": score(),
    "confusion_matthews": score(),
    "score_oriented_loss": Example(
        (confusion_f_beta, PROBABILITIES, LABELS),
        rows=(1, 2),
        result="scalar",
        traced={"center": (0.5, 0.45), "width": (0.3, 0.2)},
    ),
    "soft_confusion_matrix": Example(
        (PROBABILITIES, LABELS), rows=(0, 1), result="scalar", part=lambda matrix: matrix[1, 0]
    ),
}
