"""Phase 2: GRPO. A model learns from rewards that its own completions earn."""
