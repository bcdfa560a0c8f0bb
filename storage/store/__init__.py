"""The store on disk: where things lie, how they are locked, and how tables and arrays are written whole.

No room of `storage` is below it; nothing enters that knows what a source, a run or a catalog is.
"""
