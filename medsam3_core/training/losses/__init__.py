"""Losses of the official recipe and the objectives of the concept head and the interactive head.

What enters takes answers and targets and gives a number; optimisers and loops stay in `training`.
"""
