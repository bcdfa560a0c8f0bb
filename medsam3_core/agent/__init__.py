"""The agent: turns a request in a clinician's words into concepts, segmentations, checks and an answer.

`requests` parses the request, `session` segments and measures, `rules` or `conversation` decide, `budget` sets caps,
`trace` records and `replay` repeats. Accesses no network and no file; the endpoint is an argument.
"""
