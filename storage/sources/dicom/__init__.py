"""DICOM files to series and volumes: headers, geometry that is proved, pixels, segmentations.

Reading only; DICOM is written in `storage.exports`.
"""
