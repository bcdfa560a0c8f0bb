"""Around the network: pixels and texts to tensors, tensors to masks, and the precision of both.

No module with weights enters.
"""
