"""The version of the scoring protocol, apart from the metrics: comparing versions needs neither scipy nor skimage."""

PROTOCOL_VERSION = "1"
"""Version of the metrics and of the empty-mask policy; a score of another version is computed again."""
