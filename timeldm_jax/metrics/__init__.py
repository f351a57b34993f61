"""Scores of synthetic windows against real ones; one file a score, `suite.py` runs all."""
