def test_smoke(smoke):
    measured = smoke("nested-dropout")
    # Narrow features cannot remember the wrong labels as well as all of them can.
    wrong = measured["wrong labels fitted"]
    assert wrong["nested 10"][0] < wrong["cross-entropy"][0]
