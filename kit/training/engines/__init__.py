"""What turns gradients into updates: plain torch, or DeepSpeed."""
