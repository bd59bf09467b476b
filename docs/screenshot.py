"""Takes the README's picture of a report: python docs/screenshot.py runs/digits/report.html docs/report.png"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1180, 1400  # in CSS pixels
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def screenshot(report: Path, picture: Path, scheme: str = "light", sections: tuple[str, ...] = ()) -> None:
    """Writes a PNG of the top of a report; with sections, only those follow the verdict."""
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        sys.exit(f"no browser was found: install one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
        page.goto(report.resolve().as_uri())
        if sections:
            page.evaluate(
                "(kept) => document.querySelectorAll('section').forEach((s) => { s.hidden = !kept.includes(s.id); })",
                ["verdict", *sections],
            )
        height = min(page.evaluate("document.querySelector('footer').offsetTop") + 40, HEIGHT)
        page.screenshot(path=picture, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    screenshot(Path(sys.argv[1]), Path(sys.argv[2]), sections=("ranking", "curves"))
