"""Asking a model about a picture: loading the model, reading the picture, the answer; lmms-eval's door."""
