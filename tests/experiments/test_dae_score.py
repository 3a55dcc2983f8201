def test_smoke(smoke):
    measured = smoke("dae-score")
    # Untrained to the end, but a score already: better than no score at all, whose error is 1.
    assert measured["score error"][1][0] < 0.7
    # Metropolis chains come nearer to the data than steps that are never refused.
    assert measured["chains"][0][0] < measured["blind chains"][0][0]
