def test_smoke(smoke):
    measured = smoke("sw-control-variates")
    assert measured["tori, L = 50: both, centred"] < 0.5
    assert measured["gradient, shift 3: lower"] < 0.7 * measured["gradient, shift 3: plain"]
