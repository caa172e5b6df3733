"""Clips to embeddings."""
