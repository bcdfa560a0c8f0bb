"""Around the flows: Prefect server and sessions, deployments, events, notifications, dashboard process, checks.

No flow enters; flows use this room.
"""
