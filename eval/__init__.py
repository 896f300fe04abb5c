"""VQA evaluation of ARR-COC, run from a clone as ``python -m eval``: tasks, methods, statistics, plots and reports."""
