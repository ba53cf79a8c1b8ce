"""Contests driven from outside, and measurements against peers."""
