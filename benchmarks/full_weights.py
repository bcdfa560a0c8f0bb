"""Write seeded, untrained SAM3 checkpoints of full size (840 million parameters).

    python -m benchmarks.full_weights FOLDER [--tiny]

`FOLDER/released/sam3.pt` has detector and tracker in the released layout, `FOLDER/bare/checkpoint.safetensors` the
detector alone with the keys of Medical-SAM3. Full-size checkpoints have no config.json, as published.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from medsam3_core.sam3.keys.layouts import Part
from medsam3_core.sam3.network.architecture import Architecture, architecture_from, released_architecture
from medsam3_core.sam3.network.small import narrow_tracker_config
from medsam3_core.sam3.network.tiny import seeded_weights, tiny_config
from storage.weights.checkpoints import write_bare, write_released

RELEASED, BARE = Path("released") / "sam3.pt", Path("bare") / "checkpoint.safetensors"


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="the small architecture, for a quick run")
    arguments = parser.parse_args()
    architecture = (
        architecture_from(tiny_config(), narrow_tracker_config())
        if arguments.tiny
        else released_architecture(tracker=True)
    )
    weights = seeded_weights(architecture, 0, torch.float32, "seeded")
    for name in (RELEASED, BARE):
        (arguments.folder / name).parent.mkdir(parents=True, exist_ok=True)
    write_released(arguments.folder / RELEASED, weights)
    detector = replace(
        weights,
        architecture=Architecture(architecture.detector),
        parts={Part.DETECTOR: weights.parts[Part.DETECTOR]},
    )
    write_bare(arguments.folder / BARE, detector)
    if not arguments.tiny:
        for config in arguments.folder.glob("*/*config.json"):
            config.unlink()
    for name in (RELEASED, BARE):
        size = (arguments.folder / name).stat().st_size
        print(f"{arguments.folder / name}  {size / 1e9:.2f} GB  {weights.report.parameters / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
