"""Command line `python -m icmoe_monai.prepare`, an alias of `python -m icmoe_monai prepare`."""

from __future__ import annotations

from icmoe_monai.data.prepare import main

if __name__ == "__main__":
    main()
