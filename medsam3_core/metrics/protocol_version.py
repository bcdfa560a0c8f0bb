"""The version of the scoring protocol, apart from the metrics: comparing versions needs neither scipy nor skimage."""

PROTOCOL_VERSION = "1"
"""Version of the metrics and of the empty-mask policy; a score of another version is computed again.

Raised when a number that is stored would come out differently. A metric that is added changes no stored number and does
not raise it: rows scored before hold NULL in its column until their cases are scored again.
"""
