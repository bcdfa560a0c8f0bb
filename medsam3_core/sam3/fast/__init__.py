"""Faster equals of the network's own modules, each proved equal to the module that it replaces."""
