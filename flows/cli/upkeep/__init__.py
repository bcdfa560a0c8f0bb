"""Commands that look after an installation: weights, watch, clusters."""
