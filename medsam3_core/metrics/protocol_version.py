"""Version of the scoring protocol, in its own module: comparing versions needs neither scipy nor skimage."""

PROTOCOL_VERSION = "1"
"""Version of the metrics and of the empty-mask policy; a score of another version is computed again.

Raised when a stored number would change. A new metric changes no stored number and does not raise it: older rows hold
NULL in its column until their cases are scored again.
"""
