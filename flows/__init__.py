"""Orchestration: Prefect flows, clusters, settings, the command line. No numpy, no paths, no SQL text.

The package's own modules are the deployed flows, whose dotted names `prefect.yaml` and schedulers know.
"""
