"""One image and its prompts: the work of `medsam3 predict`, by prompts or by the agent. No store is written."""
