"""The store on disk: its paths, locks and leases, and tables and arrays that are written whole or not at all.

The lowest room of `storage`: it knows neither sources nor runs nor the catalog.
"""
