"""Defaults that commands and flows share, and that nothing else may spell."""

CLUSTER = "local"
READER = "auto"
FORMAT = "nifti"
PROMPT = "text"
METRICS = ("dice",)
LEFTOVER_HOURS = 1.0
