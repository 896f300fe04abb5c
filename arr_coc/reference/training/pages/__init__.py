"""How the second reference model, ``pages``, is trained: reading, documents, alignment, then questions about pictures."""
