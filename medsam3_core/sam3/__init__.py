"""SAM3 and Medical-SAM3 behind the `Segmenter` protocol: exactly the official answers, one encoder pass a slice.

Callers use `segmenter`. `keys` names the tensors of a state dict, `network` puts them into modules and answers prompts,
`fast` speeds modules up, `tensors` makes its inputs and outputs.
"""
