"""The command line `medsam3`: `entry` holds the group, `commands` declares, the other rooms do the work.

What a flow or a server needs does not enter: it lies beside this room.
"""

from flows.cli.entry import main

__all__ = ["main"]
