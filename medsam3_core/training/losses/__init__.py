"""Losses of the official recipe and the objectives of both heads; optimisers and loops are in `training`."""
