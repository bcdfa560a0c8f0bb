"""Files written outside the store: label maps, overlays, DICOM segmentations, and releases of `medsam3 segment`."""
