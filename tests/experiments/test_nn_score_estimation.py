def test_smoke(smoke):
    measured = smoke("nn-score-estimation")
    # Sixty labels are fitted with their noise at the end, and wider networks follow more closely.
    assert measured["last error"][0] > 1.2 * measured["least error"][0]
    assert measured["coupling"][0][1] < measured["coupling"][0][0]
    assert measured["stopping time"][0] > measured["stopping time, not rescaled"][0]
