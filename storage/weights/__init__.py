"""Weights by name and version: registry, inspection, watch, what ships with the product, and kept encodings."""
