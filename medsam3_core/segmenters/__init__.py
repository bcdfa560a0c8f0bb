"""Everything that turns a slice and a prompt into masks."""
