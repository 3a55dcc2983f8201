import numpy as np


def test_smoke(smoke):
    measured = smoke("wasserstein-dependency")
    # What an untrained encoder keeps is well above chance.
    assert np.mean(measured["9 cells: accuracy"]["random encoder"]) > 0.15
