"""The command `ponita data`."""
