"""seedtalk: a conversational recommender out of reviews (arXiv 2504.15476)."""

__version__ = "0.1.0"
