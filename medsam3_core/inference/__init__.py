"""Inference: segmenter protocol, passes over slices, propagation, merging and linking to predictions of volumes.

No network is imported: `sam3` implements the protocol.
"""
