"""The network: modules with their weights, the encoder, the heads that answer prompts, and propagation."""
