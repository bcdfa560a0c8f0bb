"""Prompts: boxes, points, masks and texts; policies that generate them; their rows, files and checks.

No segmenter is imported: a prompt is the same for all weights.
"""
