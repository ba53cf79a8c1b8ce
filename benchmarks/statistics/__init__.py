"""Pure statistics of benchmark runs: intervals, curves against a budget, the twice-run score, paired tests."""
