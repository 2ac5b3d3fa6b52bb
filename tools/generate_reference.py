"""Writes the reference pages that are made from tables. With --check, says which are out of date instead.

python tools/generate_reference.py [--check]
"""

import sys
from pathlib import Path

from ratifyd.config.help import reference_page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"docs/reference/configuration.md": reference_page}


def main() -> int:
    """Write or check every page; 1 if --check found one that is out of date."""
    stale = []
    for name, make in PAGES.items():
        path = ROOT / name
        text = make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        sys.stdout.write(f"{'out of date' if '--check' in sys.argv[1:] else 'written'}: {name}\n")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
