"""Export formats, one module each: its `FORMAT` is found by `storage.exports.registry`; nothing else names a format.

Adding a format is adding a module here: it says where the format may be used, what it can hold, and how it is written
and read back.
"""
