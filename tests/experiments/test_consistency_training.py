def test_smoke(smoke):
    measured = smoke("consistency-training")
    # The data are as near to themselves as their number allows, which no training of seconds is.
    assert measured["of data to data"] < 0.01
    assert all(
        value[0] > measured["of data to data"]
        for name, value in measured.items()
        if name.endswith("by seed")
    )
