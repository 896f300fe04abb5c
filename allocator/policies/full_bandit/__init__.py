"""Policies that learn from one reward for the whole allocation."""
