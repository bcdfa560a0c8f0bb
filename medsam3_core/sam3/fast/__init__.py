"""Faster equals of the network's own modules, each proved equal to what it replaces."""
