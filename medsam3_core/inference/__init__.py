"""From a segmenter to the prediction of a volume: the protocol, slices in passes, propagation, merging and linking.

Knows no network: `sam3` implements its protocol.
"""
