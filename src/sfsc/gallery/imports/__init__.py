"""Reading embeddings that other programs wrote, and adding them to a gallery."""
