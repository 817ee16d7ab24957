"""The rounds of a run: train, evaluate, decide, keep."""
