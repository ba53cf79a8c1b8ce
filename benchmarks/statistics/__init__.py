"""Pure statistics of runs: intervals, curves against a budget, the twice-run score, paired tests."""
