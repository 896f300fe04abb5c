"""``python -m demo``."""

from .cli import app

if __name__ == "__main__":
    app()
