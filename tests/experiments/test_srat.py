def test_smoke(smoke):
    measured = smoke("srat")
    # The law of two Gaussians holds at any size.
    assert measured["the price falls with separation, rises with radius"]
    for name, values in measured["runs"].items():
        assert measured[f"{name}: robust"] <= measured[f"{name}: clean"]
        assert min(values["separability"]) > 0
