"""Files that are replaced as a whole, and JSON that is held against types."""
