"""SAM3 and Medical-SAM3 behind the `Segmenter` protocol: exactly the official answers, one encoder pass a slice.

Reads like the pipeline: `key_table`, `key_rules`, `layouts` and `checkpoint_match` name the tensors of a state dict;
`architecture` and `network` put them into modules; `tokenizer` and `preprocess` make inputs; `encoder`, `concept` and
`interactive` answer prompts; `postprocess` makes masks; `segmenter`, `tiling` and `propagation` are what others call.
"""
