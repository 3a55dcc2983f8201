def test_smoke(smoke):
    measured = smoke("hybrid-multilabel")
    # Weights that favour having a label pay at a fixed threshold, most where labels are rare.
    for measure in ("macro F1", "F1 of rare labels"):
        weighted = measured[f"{measure}, at 0.5: weighted"]
        assert weighted > measured[f"{measure}, at 0.5: cross-entropy"]
