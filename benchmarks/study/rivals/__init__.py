"""Other libraries' networks as rows of a study. They are no part of the package; setup.cfg lists them as `rivals`."""
