"""The domain: cases, prompts, segmenters, metrics. No orchestration and no file formats.

The package's own modules (errors, digests, capabilities, run specs, public weights) import none of its rooms.
"""
