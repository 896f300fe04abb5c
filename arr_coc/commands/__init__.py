"""The commands of ``arr-coc`` that need more than a few lines, and what they print."""
