"""Rewards of GRPO: built-in ones, own functions by import path, and the judge that adds them up.

Own functions run in processes that are killed when they overrun: `kit.rewards.functions` says what that
protects against and what it does not. Those processes start from this package, so it imports nothing itself.
"""
