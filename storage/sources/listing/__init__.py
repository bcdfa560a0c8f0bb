"""Parts that every layout needs to list its cases: recipes and their parameters, files, tables, labels, pairing.

Reads no pixels and knows no layout by name.
"""
