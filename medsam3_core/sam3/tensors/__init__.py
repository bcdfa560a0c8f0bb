"""Around the network: pixels and texts to tensors, tensors to masks, and the precision of both.

No network enters; what we use of the insides of torch and `transformers` lies here, below all who need it.
"""
