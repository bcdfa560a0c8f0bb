"""One engine for each file layout, driven by recipes.

A layout may use listing, formats and DICOM. A single dataset gets a recipe, not a layout.
"""
