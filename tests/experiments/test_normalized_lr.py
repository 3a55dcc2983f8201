def test_smoke(smoke):
    measured = smoke("normalized-lr")
    assert measured["distance from the perceptron at rate 1e8"] < 1e-5
    # The theorem holds at any size: n iterations against a number that does not depend on n.
    assert measured["hard instance, plain, rate inf: slope in n"] > 0.8
    assert abs(measured["hard instance, normalised, rate inf: slope in n"]) < 0.2
