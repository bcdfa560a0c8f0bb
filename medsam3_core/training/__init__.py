"""Fine-tuning of SAM3: plans, batches, the training loop, and validation by the product's own scoring.

`data` makes samples, `losses` judges answers, `trainees` holds what learns. Nothing here reads or writes a store.
"""
