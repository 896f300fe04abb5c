"""The patch-budget demo: look at what the model spends, and why. Run as ``python -m demo``."""
