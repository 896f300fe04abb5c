"""The wrapper: attached to a model, it looks, plans and realises inside the model's own forward pass."""
