"""Prompts on disk: the table of generated prompts, prompt files of users, and mask images."""
