"""Commands that look after an installation: doctor, weights, watch, clusters."""
