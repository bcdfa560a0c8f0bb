"""Scripts that measure and ship the small weights and measure the agent. Not part of the tests."""
