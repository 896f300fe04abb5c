"""A real server on loopback, tried: load, soak, kill -9, hostile requests."""
