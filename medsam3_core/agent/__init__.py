"""The agent: a request in a clinician's words becomes concepts, segmentations, a critique and an answer.

`requests` reads the words, `session` draws and measures, `rules` or `conversation` decide, `budget` bounds, `trace`
records and `replay` repeats. No network and no file enters: an endpoint is handed in.
"""
