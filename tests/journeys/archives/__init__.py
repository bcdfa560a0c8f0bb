"""Archives in, clinical formats out: DICOM written here, with every fault that an archive has."""
