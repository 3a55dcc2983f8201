"""The small run of the experiment: what must hold at any size."""

import numpy as np


def test_smoke(smoke):
    results = smoke("sinkhorn-newton")
    assert results["worst marginal error of exact"] < 1e-9
    assert (np.asarray(results["iterations"]) >= 1).all()
    outside = np.asarray(results["mass outside the 2n largest entries"])
    assert (outside[:, 1] < outside[:, 0]).all()
