def test_smoke(smoke):
    measured = smoke("z-loss")
    # A context of five hundred words is learned a little in sixty steps: better than guessing.
    for errors in measured["errors, clean and noisy"].values():
        assert errors[0][3] < 0.9
