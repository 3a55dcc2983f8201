def test_smoke(smoke):
    measured = smoke("nested-dropout")
    # Six epochs on noisy labels: far from done, and far from guessing among ten classes.
    for accuracies in (*measured["accuracy"].values(), *measured["pairs"].values()):
        assert min(accuracies) > 0.2
