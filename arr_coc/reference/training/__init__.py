"""The trainer of the reference model: apart from what users load."""
