"""Declarations of commands: arguments, options, help.

Light to import: a command makes a request of its options and returns the exit code of a body in `work`, `answers` or
`upkeep`, which it imports when it is called.
"""
