"""`python -m icmoe_monai.prepare`, another name of `python -m icmoe_monai prepare`."""

from __future__ import annotations

from icmoe_monai.data.prepare import main

if __name__ == "__main__":
    main()
