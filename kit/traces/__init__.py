"""Traces: a teacher's verified answers, and its top-k log-probabilities beside them, for distillation."""
