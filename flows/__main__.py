"""`python -m flows` is `medsam3`."""

from flows.cli import main

if __name__ == "__main__":
    main()
