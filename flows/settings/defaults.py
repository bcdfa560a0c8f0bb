"""Defaults shared by commands and flows."""

CLUSTER = "local"
READER = "auto"
FORMAT = "nifti"
PROMPT = "text"
METRICS = ("dice",)
LEFTOVER_HOURS = 1.0
