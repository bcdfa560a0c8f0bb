"""Ingest: the plan of a source, the journal of listed cases, and the checks before anything is written."""
