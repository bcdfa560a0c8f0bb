"""Losses of the official recipe and the objectives of the concept head and the interactive head."""
