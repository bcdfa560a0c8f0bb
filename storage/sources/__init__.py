"""Source datasets: from a folder or bucket to listed cases and read volumes.

Entry points are `registry` and `reading`. Formats, layouts and DICOM have rooms of their own; none writes a store.
"""
