"""Policies that learn nothing: fixed, uniform, random, heuristic, oracle."""
