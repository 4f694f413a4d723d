"""Does a suggestion of images to label beat chance? An experiment by a user's commands, and its table."""
