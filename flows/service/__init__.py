"""Around the flows: Prefect server and sessions, deployments, events, notifications, dashboard process, checks."""
