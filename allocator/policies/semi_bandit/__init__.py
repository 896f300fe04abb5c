"""Policies that learn from one reward per patch."""
