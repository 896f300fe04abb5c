"""Worlds with a known truth, for tests and benchmarks of policies."""
