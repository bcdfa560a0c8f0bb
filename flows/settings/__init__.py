"""Settings from `medsam3.toml` and the environment, and the options that commands share."""
