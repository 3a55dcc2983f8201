def test_smoke(smoke):
    measured = smoke("mesh-sliced-wasserstein")
    errors = measured["errors"]["sliced W1"]
    assert errors["400"] < errors["100"]
    # A sphere of few faces, after three steps: still embedded.
    assert measured["sliced: self-intersections"] == 0
