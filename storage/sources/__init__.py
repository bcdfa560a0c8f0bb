"""Source datasets: from a folder or bucket to listed cases and read volumes.

The doors are `registry` and `reading`. Formats, layouts and DICOM have rooms of their own; nothing here writes a store.
"""
