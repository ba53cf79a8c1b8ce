"""Choosing one answer among the candidates of a problem: votes, weights, calibration and their statistics."""
