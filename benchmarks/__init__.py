"""Cost side by side with what a user would take instead; each module is a command and writes one JSON file."""
