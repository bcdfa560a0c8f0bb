"""Words of clinicians: each structure with its names, synonyms, Latin and place."""
