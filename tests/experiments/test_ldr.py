def test_smoke(smoke):
    measured = smoke("ldr")
    # The theorem holds at any size.
    assert measured["worst top-k agreement of LDR-KL"] == 1.0
    assert measured["largest excess risk of the absolute error's"] < 1e-6
