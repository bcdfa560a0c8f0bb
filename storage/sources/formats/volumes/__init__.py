"""Volume formats: one module each, which says what its files are called, what reads them and what they can carry.

A module with a `FORMAT` is registered by lying here.
"""
