"""Commands that look after an installation: doctor, weights, watch, prune, clusters. No case is computed here."""
