"""One model under evaluation: its answers, its clock, what it has computed of a question."""
