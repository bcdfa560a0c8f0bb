"""Fine-tuning of SAM3: plans, batches, the training loop, and validation by the product's own scoring.

`data` makes samples, `losses` computes losses, `trainees` holds the trained network. Nothing here accesses a store.
"""
