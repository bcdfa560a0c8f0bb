"""Bodies of commands that maintain an installation: doctor, weights, watch, prune, clusters."""
