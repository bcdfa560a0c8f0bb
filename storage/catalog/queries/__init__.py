"""Queries of the catalog for other rooms, by subject: typed functions that contain their SQL."""
