"""Training samples: slices, their prompts, and their augmentation; contains no network."""
