"""Prompts on disk: the table of generated prompts, prompt files of users, and mask images.

How prompts are made stays in `medsam3_core.prompts`.
"""
