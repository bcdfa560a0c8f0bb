"""SAM3 and Medical-SAM3 behind the `Segmenter` protocol: exactly the official answers, one encoder pass a slice.

Callers use `segmenter`. `keys` maps the names of tensors, `network` builds modules and answers prompts, `fast` speeds
modules up, `tensors` prepares inputs and outputs.
"""
