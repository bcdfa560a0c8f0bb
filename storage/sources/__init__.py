"""Source datasets: from the folder or bucket that somebody brings to listed cases and read volumes.

Here stand the doors (`registry`, `reading`); formats, layouts and DICOM have rooms of their own below.
"""
