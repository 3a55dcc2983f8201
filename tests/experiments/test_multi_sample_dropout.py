def test_smoke(smoke):
    measured = smoke("multi-sample-dropout")
    for single, eight in measured["gradient noise"]["of masks"].values():
        # Eight times the samples, about an eighth of the noise.
        assert eight < 0.25 * single
