"""The `ponita` command as a module, so that a test can start it, and it can start itself again for other ranks."""

from ponita.tasks.cli import main

if __name__ == "__main__":
    main()
