"""What leaves the store: label maps, overlays and DICOM segmentations, released once and under a claim."""
