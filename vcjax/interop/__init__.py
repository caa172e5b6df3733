"""Weights and files of other programs: PyTorch checkpoints, and what the authors released."""
