"""The page, tab by tab: components and their wiring, nothing else."""
