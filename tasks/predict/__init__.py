"""One image, one question: what `medsam3 predict` runs, by prompts or by the agent."""
