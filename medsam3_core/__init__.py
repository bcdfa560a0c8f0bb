"""The domain: cases, prompts, segmenters, metrics. No orchestration and no file formats.

The package's own modules (errors, digests, capabilities) import none of its rooms.
"""
