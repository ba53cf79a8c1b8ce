"""What a run needs, worked out before it starts: memory by item, steps, tokens, FLOPs and hours."""
