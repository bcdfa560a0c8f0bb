"""Cohorts: the frozen list of cases, their volumes in OME-Zarr, and what was checked when they came in."""
