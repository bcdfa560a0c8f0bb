"""The network: modules with their weights, the encoder, the heads that answer prompts, and propagation.

Modules of `transformers` are adapted here and in `fast`.
"""
