"""Comparison of two weights: the pairs, the statistics by patient, and the sentences that report them."""
