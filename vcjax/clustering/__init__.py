"""K-means clustering and nearest-neighbor search."""
