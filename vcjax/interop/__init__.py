"""Import and export of PyTorch checkpoints and of the files that the authors released."""
