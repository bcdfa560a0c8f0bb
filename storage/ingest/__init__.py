"""Ingest: the plan of a source, the journal of listed cases, and the check before anything is written."""
