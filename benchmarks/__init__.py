"""Cost beside what a user would take instead; `encoder` and `network` are commands that write a JSON file."""
