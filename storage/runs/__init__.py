"""Runs: what is planned, what is pending, and the ledger and predictions that they write."""
