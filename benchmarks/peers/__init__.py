"""The peers: each in an environment of its own, beside ours in one run, with one table of ratios."""
