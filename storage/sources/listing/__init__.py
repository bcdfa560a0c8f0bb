"""Parts that every layout needs to list its cases: recipes and their parameters, files, tables, labels, pairing.

No pixels are read here, and no layout is known by name.
"""
