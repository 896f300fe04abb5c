"""Serving: answers over HTTP, every decision and reward on an append-only log, policies replaced without a pause."""
