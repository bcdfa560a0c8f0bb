"""The agent: a request in a clinician's words becomes concepts, segmentations, a critique and an answer.

Reads like the work: `requests` and `vocabulary` understand the words, `session` draws and measures, `rules` or
`conversation` decide, `budget` bounds, `trace` tells what happened, `replay` repeats it. Nothing here touches a network
or a file; an endpoint is handed in.
"""
