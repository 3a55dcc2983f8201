def test_smoke(smoke):
    measured = smoke("pulaski")
    distances = measured["generalised energy distance"]
    assert all(0 <= value <= 2 for values in distances.values() for value in values)
    # Two pairs of raters differ by a disc, two by a radius: at any size.
    assert 0.2 < measured["raters' diversity"] < 0.7
