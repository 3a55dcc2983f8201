def test_smoke(smoke):
    measured = smoke("adversarial-sampling")
    # A density on 48 x 48 cells of a box of area 4, before any training worth the name.
    for row in measured["DAS"]["density"], measured["AAS, beta 0.1, 20% uniform"]["density"]:
        assert abs(sum(map(sum, row)) / 48**2 - 0.25) < 1e-3
