"""The README's picture of the report, from the demo batch: `python tools/screenshots.py` writes docs/images/report.png.

Needs Debian's chromium. Run it again when the bundle `mini` or the page has changed; those of the UI are made by
`make screenshots`.
"""

import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests" / "ui"))

from kits.browser import chromium, open_report  # noqa: E402

from virnuc_dagster.cli import main as virnuc  # noqa: E402


def picture(window: Page, name: str) -> None:
    """Save what the window shows, with a small palette of colours."""
    from PIL import Image

    path = IMAGES / name
    window.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def main() -> None:
    """Predict the demo, then take the picture."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home, output = Path(folder) / "home", Path(folder) / "out"
        assert virnuc(["predict", str(ROOT / "demo/demo.fasta"), "--output", str(output), "--home", str(home)]) == 0
        with chromium(width=1180, height=1420) as window:
            open_report(window, output / "report.html")
            time.sleep(1)
            picture(window, "report.png")


if __name__ == "__main__":
    main()
