"""Volume formats: one module per format with its suffixes, its reader and the properties it can store.

Every module here with a `FORMAT` is registered.
"""
