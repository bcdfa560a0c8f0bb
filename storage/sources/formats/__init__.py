"""Files to arrays: NIfTI, pictures, numpy and HDF5, masks and shapes.

One reader for each kind of file enters here; what belongs to one dataset is a recipe or a layout.
"""
