def test_smoke(smoke):
    measured = smoke("sparse-ot")
    # By construction, at any size and after any number of steps.
    assert measured["columns above k"] == 0
    assert measured["feasible plans of wrong cost"] == 0
