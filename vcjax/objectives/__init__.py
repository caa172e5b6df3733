"""Self-supervised objectives: losses of embeddings against the memory bank (Sec. 3.1-3.2)."""
