"""The training core that distillation, GRPO and the PRM stand on: batches, engines, checkpoints, logs."""
