"""Training on disk: configurations, the manifest of cases, marks against leaks, slices, runs and curves.

How weights learn stays in `medsam3_core.training`.
"""
