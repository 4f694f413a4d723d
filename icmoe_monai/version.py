"""The one version of package and bundle; a test compares it with configs/metadata.json."""

__version__ = "0.8.0"
