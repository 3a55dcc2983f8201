def test_smoke(smoke):
    measured = smoke("amortized-vdsw")
    # The shift is all but the best direction, and needs no training.
    assert measured["shifted: mean difference"] > 0.8
    assert measured["shifted: 20 steps"] == 1.0
