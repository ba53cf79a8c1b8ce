"""The page of a run: one self-contained HTML file that a person reads at a glance."""
