"""A process reward model at work: how likely is each step of a candidate solution right."""
