"""Policies around a policy: forgetting, caution."""
