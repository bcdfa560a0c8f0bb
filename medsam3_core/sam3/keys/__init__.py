"""Names of tensors: layouts of checkpoints and the table that maps one to another; builds no network."""
