"""Rewards of GRPO: built-in ones, own functions by import path, and the judge that adds them up.

Own functions run in processes that are killed when they overrun: `kit.rewards.functions` says what that
protects against and what it does not.
"""

from kit.rewards.functions import FunctionPool, Outcome
from kit.rewards.judge import Judge, Sample, Scored
from kit.rewards.lengths import CosineValues, length_cosine, shorter_when_right
from kit.rewards.prm import PrmReward, StepScorer
from kit.rewards.recipe import RewardSection

__all__ = [
    "CosineValues",
    "FunctionPool",
    "Judge",
    "Outcome",
    "PrmReward",
    "RewardSection",
    "Sample",
    "Scored",
    "StepScorer",
    "length_cosine",
    "shorter_when_right",
]
