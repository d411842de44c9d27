"""`python -m ambient` is the `ambient` command."""

from __future__ import annotations

from ambient.cli import main

if __name__ == "__main__":
    main()
