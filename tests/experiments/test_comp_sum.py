def test_smoke(smoke):
    measured = smoke("comp-sum")
    # The theorem holds at any size.
    assert measured["violations of the bound"] == 0
    assert measured["distance from the bound for two labels"] < 1e-6
