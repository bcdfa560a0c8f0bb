"""Commands that read a store and answer: status, sql, export, comparison, leaderboard. Nothing here writes to it."""
