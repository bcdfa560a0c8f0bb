"""Training samples: slices, their prompts, and their augmentation. No network enters."""
