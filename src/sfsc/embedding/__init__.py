"""Embedding images with a family or with a file that was exported from one."""
