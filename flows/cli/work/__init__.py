"""Bodies of commands that compute: ingest, check, benchmark, predict, segment, train, demo, agent."""
