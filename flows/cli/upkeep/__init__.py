"""Commands that look after an installation: doctor, weights, watch, clusters. No case is computed here."""
