"""The store on disk: its paths, locks and leases, and tables and arrays that are written whole or not at all.

The lowest room of `storage`: nothing enters that knows a source, a run or the catalog.
"""
