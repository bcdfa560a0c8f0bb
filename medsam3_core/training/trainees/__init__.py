"""The trained network: its parameters, LoRA adapters, and the optimiser; no data and no losses."""
