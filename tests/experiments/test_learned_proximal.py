import numpy as np


def test_smoke(smoke):
    measured = smoke("learned-proximal")
    # Whatever the network has learned, it is a proximal operator: it increases.
    for curves in measured["denoisers"].values():
        assert np.min(np.diff(curves)) > -1e-5
