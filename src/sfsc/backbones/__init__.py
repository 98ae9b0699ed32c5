"""Dense networks: built-in, from other packages, or user-defined."""
