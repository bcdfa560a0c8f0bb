"""The network that learns: its trainable parameters, LoRA adapters, and the optimiser.

No data and no loss enters.
"""
