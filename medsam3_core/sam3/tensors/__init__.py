"""Inputs and outputs of the network: pixels and texts to tensors, tensors to masks, and precision.

Contains no network; our uses of private parts of torch and `transformers` are here.
"""
