"""Benchmarks against named peers: `python -m vcjax.bench NAME`."""
