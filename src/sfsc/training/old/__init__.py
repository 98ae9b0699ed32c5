"""Old models: trained models or stored embeddings that a new family is trained towards."""
