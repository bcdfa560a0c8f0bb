"""Work of `medsam3 predict`: one image, by prompts or by the agent. No store is written."""
