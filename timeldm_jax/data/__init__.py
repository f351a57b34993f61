"""Data: sources, windows and splits, scaling."""
