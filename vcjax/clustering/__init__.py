"""Bank rows to clusters and neighbors."""
