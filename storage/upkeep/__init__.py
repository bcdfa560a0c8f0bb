"""Status and upkeep of a whole store."""
