"""Attending (the field says budget planner or router): context vectors in, one budget per patch out."""
