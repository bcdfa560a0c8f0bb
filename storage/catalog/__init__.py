"""The DuckDB catalog: views over the tables of a store, guarded questions, and compaction of scores.

All SQL of the product lies here.
"""
