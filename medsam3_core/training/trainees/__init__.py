"""The network that learns: its trainable parameters, LoRA adapters and the optimiser."""
