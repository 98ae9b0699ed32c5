"""A family of nested sub-models: a switchable backbone with its embedding head."""
