"""Training on disk: configurations, the manifest of cases, marks against leaks, slices, runs and curves."""
