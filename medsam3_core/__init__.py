"""The domain: geometry, cases, prompts, segmenters, metrics. No orchestration and no file formats."""
