"""Comparison of two weights: pairs of scores, statistics by patient, and the sentences that report them."""
