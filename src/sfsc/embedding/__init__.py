"""Images to embeddings, by a family or by a file that was exported from one."""
