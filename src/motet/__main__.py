"""``python -m motet`` and ``torchrun -m motet``: the same as the command ``motet``."""

from motet.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
