"""Names of tensors: layouts of checkpoints and the explicit table from one to another.

No network is built here.
"""
