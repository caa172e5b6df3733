"""The page of a run: its results, clusters and videos."""
