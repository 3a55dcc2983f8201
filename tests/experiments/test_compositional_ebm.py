def test_smoke(smoke):
    measured = smoke("compositional-ebm")
    # The landscapes are integrals: they do not depend on the size of the run.
    steps = measured["steps of gradient descent, mean 3"]
    assert steps["likelihood"] == 1
    assert steps["NCE by step size (-1: never)"]["1.0"] == 29
    # An untrained network is worse than the truth.
    ring = measured["ring, 128 noise points"]
    assert min(map(min, (ring["MECO"], ring["plug-in"], ring["NCE"]))) > ring["truth"]
