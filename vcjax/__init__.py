"""Video representations without labels, by dense trajectory clustering."""
