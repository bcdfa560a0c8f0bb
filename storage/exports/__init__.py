"""Files that leave the store: label maps, overlays, DICOM segmentations, and the releases of `medsam3 segment`.

Everything that writes outside the store enters here, with its plan, its claim on the folder and its ledger.
"""
