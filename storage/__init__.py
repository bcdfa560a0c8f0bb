"""Every on-disk format: sources, volumes, checkpoints, tables, catalog and exports. No orchestration enters."""
