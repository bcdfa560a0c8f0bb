"""Cohorts: the frozen list of cases, their volumes in OME-Zarr, and the checks and image hashes made at ingest."""
