def test_smoke(smoke):
    measured = smoke("multi-sample-dropout")
    for found in measured["gradient noise"].values():
        # Eight times the samples, about an eighth of the noise.
        assert found["of masks"][3] < 0.25 * found["of masks"][0]
