import numpy as np


def test_smoke(smoke):
    measured = smoke("fokker-planck")
    # An untrained score's samples are nowhere near the data, and two samples of the data are near.
    assert min(map(np.min, measured["flow to data"].values())) > measured["two samples of the data"]
