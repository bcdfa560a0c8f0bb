"""Services used by flows: Prefect server and sessions, deployments, events, notifications, dashboard, checks."""
