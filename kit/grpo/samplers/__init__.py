"""Samplers: where the completions that GRPO learns from are drawn (see `kit.grpo.rollout.Sampler`)."""
