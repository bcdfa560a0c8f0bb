"""Status and upkeep of a whole store: nothing that looks at a single run or case."""
