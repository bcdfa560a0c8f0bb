"""Comparison of two weights: pairs of scores, statistics by patient, and the sentences that report them.

Reads the catalog; writes no files.
"""
