"""One engine per file layout, driven by recipes. A layout may use formats and DICOM, never another layout's cases."""
