"""Orchestration: Prefect flows, cluster factory, settings, the command line. No numpy, no paths, no SQL text."""
