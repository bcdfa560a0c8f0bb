"""Orchestration: Prefect flows, clusters, settings, the command line. No numpy, no paths, no SQL text.

The modules of this folder are the deployed flows; `prefect.yaml` refers to them by their dotted names.
"""
