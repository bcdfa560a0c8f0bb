"""The bounded stream of batches over Dask: sizing, breadcrumbs of running batches, deaths of workers, interrupts."""
