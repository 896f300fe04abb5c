"""Learning from a log, start to end: explore, log, read rounds, estimate, judge, notice a shift."""
