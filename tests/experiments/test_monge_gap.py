import numpy as np


def test_smoke(smoke):
    measured = smoke("monge-gap")
    for dimension in (2, 4):
        gaps = measured[f"d = {dimension}: exact gap over variance"].values()
        # An assignment is never dearer than the map itself.
        assert min(np.ravel(list(gaps))) >= -1e-6
