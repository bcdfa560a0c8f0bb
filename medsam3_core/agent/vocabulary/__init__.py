"""Words of clinicians: each structure with its names, synonyms, Latin and place. Words only, no logic of the agent."""
