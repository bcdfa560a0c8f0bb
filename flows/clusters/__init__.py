"""Dask clusters: started or joined, checked, watched and closed."""
