"""Losses: functions of (logits or embeddings, labels)."""
