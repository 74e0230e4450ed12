"""``python -m tamis.service.cli``."""

from tamis.service.cli import main

if __name__ == "__main__":
    main()
