"""Writes the generated files beside this folder: ``python dashboards/generate``."""

from pathlib import Path

from files import files

HOME = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write them."""
    for name, content in files(HOME / "runbook.md").items():
        (HOME / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
