"""DICOM files to series and volumes: headers, verified geometry, pixels, segmentations.

Reading only; `storage.exports` writes DICOM.
"""
