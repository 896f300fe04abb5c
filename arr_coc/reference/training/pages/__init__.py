"""How the second reference model, ``pages``, is trained: reading, then transcripts and captions, then questions."""
