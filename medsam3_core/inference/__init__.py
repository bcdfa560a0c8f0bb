"""From a segmenter to the prediction of a volume: the protocol, passes over slices, propagation, merging, linking.

No network enters: `sam3` implements the protocol.
"""
