"""Weights by name and version: registry, inspection, watch, shipped weights, and cached encodings.

Torch enters only through `checkpoints`, which is imported when tensors are read.
"""
