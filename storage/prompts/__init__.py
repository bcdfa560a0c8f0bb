"""Prompts on disk: the table of generated prompts, files of prompts that users bring, and mask images."""
