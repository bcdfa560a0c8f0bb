"""Metrics of segmentation, one definition each, all of them pure functions of masks."""
