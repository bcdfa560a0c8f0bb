"""Settings that can change a number: inference, the agent, and presets of published protocols.

What changes only speed or place is a setting of `flows`. Beside them: which optional dependencies a setting needs.
"""
