"""Budgets inside other people's engines: one folder for each engine, and the gateway that needs none of our code in it."""
