"""Declarations of commands: arguments, options, help.

Light to import: a command imports its work when it is called.
"""
