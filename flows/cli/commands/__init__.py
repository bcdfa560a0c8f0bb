"""Declarations of commands: arguments, options, help.

Light to import: a command builds a request from its options and returns the exit code of a body in `work`, `answers` or
`upkeep`, imported when it is called.
"""
