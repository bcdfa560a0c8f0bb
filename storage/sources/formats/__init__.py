"""Files to arrays: NIfTI, pictures, numpy and HDF5, masks and shapes.

One reader per kind of file; rules of a dataset belong in its recipe or layout.
"""
