"""Budgets inside other people's engines: a folder for each, and a gateway that needs none of our code in them."""
