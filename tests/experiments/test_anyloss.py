import numpy as np


def test_smoke(smoke):
    measured = smoke("anyloss")
    # Aiming at balanced accuracy pays wherever the classes overlap and one is rare.
    aimed = measured["synthetic balanced accuracy: AnyLoss balanced"]
    assert aimed > measured["synthetic balanced accuracy: cross-entropy"]
    # A threshold tuned for F1 on the training folds cannot be far below the untuned one.
    tuned = measured["synthetic F1: cross-entropy, threshold tuned for F1"]
    assert tuned > measured["synthetic F1: cross-entropy"] - 0.05
    assert all(0 <= x <= 1 for x in np.ravel(list(measured["F1: digits, 8 or not"].values())))
