"""Declarations of commands: arguments, options, help. A command imports what is heavy when it is called."""
