"""Bodies of commands that read a store: status, sql, export, comparison, leaderboard."""
