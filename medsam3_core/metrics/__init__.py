"""Metrics of segmentation and measurements of masks, one definition each, and the statistics over them.

Pure functions; no segmenter enters here.
"""
