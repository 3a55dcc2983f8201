def test_smoke(smoke):
    measured = smoke("correctness-calibration")
    assert measured["in distribution: accuracy"] > measured["rotated: accuracy"]
    # The balanced form lowers every confidence of an accurate model.
    for split in ("in distribution", "rotated"):
        name = f"{split}: confidence of narrow mistakes"
        assert measured[f"{name}, network, balanced"] < measured[f"{name}, none"]
