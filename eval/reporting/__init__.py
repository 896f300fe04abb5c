"""From answers to tables, curves and pages."""
