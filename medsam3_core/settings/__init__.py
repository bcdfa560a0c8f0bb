"""Settings that can change a number: inference, agent and the presets of published protocols."""
