"""Units of work of the agent: its endpoint, one case, and the replay of a trace. Only this package imports `openai`."""
