"""Records of cases, as a report holds them, and of volumes, as a journal does."""

from __future__ import annotations

RELIABILITY = {"confidence": 0.93, "disagreement": 0.04, "vote_entropy": 0.31, "expert_agreement": 0.95}
FIELDS = (
    *(
        "frame",
        "error",
        "height",
        "width",
        "spacing_mm",
        "mask",
        "overlay",
        "volume",
        "segmentation",
        "foreground_pixels",
    ),
    *("foreground_share", "area_mm2", "num_components", "reliability", "seconds"),
)


def done(name: str = "a.png", pixels: tuple[int, ...] = (1234,), **fields: object) -> dict:
    return {
        **dict.fromkeys(FIELDS),
        "name": name,
        "status": "done",
        "height": 48,
        "width": 64,
        "mask": f"masks/{name}",
        "overlay": f"overlays/{name}",
        "foreground_pixels": list(pixels),
        "foreground_share": [count / (48 * 64) for count in pixels],
        "num_components": [2] * len(pixels),
        "reliability": RELIABILITY,
        "seconds": 0.41,
        **fields,
    }


def volume(name: str, *files: str) -> dict:
    """Return the record of a volume of one case, in a journal."""
    return {"name": name, "of": [name], "files": [{"file": file, "cases": [name]} for file in files], "remarks": []}
