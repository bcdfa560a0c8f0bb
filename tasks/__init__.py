"""Units of work (read, compute, write, return a small record) and the bounded stream that runs them on Dask."""
