"""Readers: one engine per file layout, driven by recipes."""
