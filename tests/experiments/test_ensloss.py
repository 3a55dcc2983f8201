def test_smoke(smoke):
    measured = smoke("ensloss")
    for name in ("overlapping clusters", "digits"):
        assert 0 <= measured[f"{name}: p-value"] <= 1
        for loss in ("EnsLoss", "cross-entropy", "hinge", "exponential"):
            assert measured[f"{name}: {loss}, best of all epochs"] >= measured[f"{name}: {loss}"]
    # Five epochs are enough to learn something about digits.
    assert measured["digits: EnsLoss"] > 0.6
