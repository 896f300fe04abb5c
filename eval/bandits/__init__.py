"""Benchmark of the methods on streams with known optimum: `python -m eval.bandits --help`."""
