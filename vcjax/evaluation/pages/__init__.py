"""The pages of a run: its clusters, and an explorer of its videos."""
