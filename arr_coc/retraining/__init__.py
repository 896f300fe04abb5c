"""Retraining: learn from the decision log, judge off-policy, promote or keep, roll back."""
