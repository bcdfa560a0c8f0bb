"""Fine-tuning of SAM3: samples, prompts, official losses, validation by the product's own scoring."""
