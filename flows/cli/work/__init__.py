"""Commands that compute: check, benchmark, predict, segment, train, demo, agent."""
