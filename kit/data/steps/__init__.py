"""Cleaning steps, one file each. Every step is its own settings, and works without the others:

outcome = Duplicates(threshold=0.8).apply(records)
"""
