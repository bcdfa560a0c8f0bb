"""Runs: the plan, the pending cases, and the ledger, predictions and traces that they write.

Exports and comparisons of runs are separate packages.
"""
