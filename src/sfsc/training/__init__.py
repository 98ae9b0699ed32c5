"""Training: configuration, one step of a family, the loop, checkpoints."""
