"""The network: modules with weights, encoder, heads and propagation; here and in `fast` we adapt `transformers`."""
