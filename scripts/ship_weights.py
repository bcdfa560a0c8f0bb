"""Copy a finished training run into the shipped weights: python -m scripts.ship_weights RUN_FOLDER NAME [NOTE]."""

import sys
from dataclasses import asdict, replace
from pathlib import Path

from storage.weights.inspection import inspect_location
from storage.weights.shipped import ship


def main() -> None:
    """Copy the weights and their facts."""
    run_folder, name = Path(sys.argv[1]), sys.argv[2]
    facts = inspect_location(name, str(run_folder / "weights"))
    note = sys.argv[3] if len(sys.argv) > 3 else "small SAM3 that comes with medsam3; see its README.md"
    print(ship(run_folder, name, asdict(replace(facts, note=note))))


if __name__ == "__main__":
    main()
