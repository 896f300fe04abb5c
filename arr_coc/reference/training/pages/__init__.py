"""How the second reference model, ``pages``, is trained: reading, documents, alignment, questions about pictures."""
