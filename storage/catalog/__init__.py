"""The DuckDB catalog: views over the tables of a store, guarded questions, and compaction of scores.

The SQL of views and pages enters here, and `duckdb` with it.
"""
