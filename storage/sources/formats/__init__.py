"""Files to arrays: NIfTI, pictures, numpy and HDF5, masks and shapes. One reader per kind of file, none per dataset."""
