"""Scoring recommenders on conversations: queries, metrics, intervals, baselines."""
