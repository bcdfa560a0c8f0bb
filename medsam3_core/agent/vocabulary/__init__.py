"""Vocabulary of clinicians: names, synonyms, Latin names and place of each structure, without logic of the agent."""
