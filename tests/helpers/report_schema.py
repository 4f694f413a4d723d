"""docs/report.schema.json, by which every report that a test reads may be checked."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

CONTENT = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(CONTENT)
