"""Questions that other rooms ask of the catalog, by subject: one function each, its SQL inside, its answer typed."""
