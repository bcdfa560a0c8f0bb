"""Settings from `medsam3.toml` and the environment, and the options that commands share.

Light to import: no cluster, server or flow enters.
"""
