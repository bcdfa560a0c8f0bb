"""Metrics of masks, one definition each, the scores made of them, and the statistics over scores.

Pure functions of masks and numbers; no segmenter enters.
"""
