"""Embeddings and bank to losses."""
