"""Commands that compute: ingest, check, benchmark, predict, segment, train, demo, agent.

A command asks a flow or a task here; its arguments are declared in `commands`.
"""
