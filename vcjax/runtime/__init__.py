"""Machinery that knows no video, no memory bank and no paper."""
