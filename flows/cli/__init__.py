"""The command line `medsam3`: `entry` holds the group, `commands` declares, the other rooms do the work."""

from flows.cli.entry import main

__all__ = ["main"]
