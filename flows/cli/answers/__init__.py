"""Commands that read a store and answer: status, comparison, leaderboard. Nothing here writes."""
