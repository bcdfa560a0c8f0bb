"""DICOM to series and volumes: headers, geometry that is proved, pixels, segmentations. pydicom enters here."""
