"""The DuckDB catalog: views over the tables of a store, guarded queries, and compaction of scores.

All SQL and all use of `duckdb` are here; other rooms call the functions of `queries`.
"""
