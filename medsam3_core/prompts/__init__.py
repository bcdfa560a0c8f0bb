"""Prompts: boxes, points, masks and texts, the policies that generate them, rows, files and checks."""
