"""The DuckDB catalog: views over the tables of a store, guarded questions, and compaction of scores.

All SQL lives here, and `duckdb` with it; what other rooms ask is a function of `queries`.
"""
