"""Lightning tasks, one folder for a physical problem, and the command line."""
