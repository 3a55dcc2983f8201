def test_smoke(smoke):
    measured = smoke("noprop")
    accuracies = {n: v for n, v in measured.items() if n.startswith("test accuracy: ")}
    assert len(accuracies) == 6
    assert all(0 <= value <= 100 for value in accuracies.values())
    # Two epochs do not learn much, but an image tells more than chance.
    assert accuracies["test accuracy: NoProp-DT"] > 15
