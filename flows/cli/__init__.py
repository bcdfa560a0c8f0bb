"""The command line `medsam3`: `entry` holds the group, `commands` declares, the other folders do the work."""

from flows.cli.entry import main

__all__ = ["main"]
