"""Faster equals of the network's own modules.

What enters is proved equal by a test to the module that it replaces.
"""
