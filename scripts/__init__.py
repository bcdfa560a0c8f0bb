"""Scripts about the shipped weights and the agent: how they were measured and shipped. Never part of the tests."""
