"""Time and memory, each a ratio that one run measured beside what a user would take instead."""
