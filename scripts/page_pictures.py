"""Pictures of the page for the README, from a page that serves two runs.

`vision-sr1 traces runs/demo/answer_only runs/demo/rl`, and beside it `python scripts/page_pictures.py URL docs/page`,
with the address that the first prints. The first run needs a prompt with a shortcut.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WIDTH, HEIGHT = 1180, 700  # CSS pixels
HEIGHTS = {"group": 1000}
SHOWN = """() => [...document.images].every((image) =>
  image.getBoundingClientRect().top > innerHeight || (image.complete && image.naturalWidth > 0))"""
SHORTCUT = "answer right, description insufficient (shortcut)"


def take_pictures(page: Page, url: str, folder: Path) -> list[Path]:
    """Writes a picture of each view.

    Args:
        url: of the page, which asks for no token.

    Returns:
        The files.
    """
    taken: list[Path] = []

    def take(name: str) -> None:
        page.set_viewport_size({"width": WIDTH, "height": HEIGHTS.get(name, HEIGHT)})
        page.wait_for_function(SHOWN)
        taken.append(folder / f"{name}.png")
        page.screenshot(path=taken[-1])

    folder.mkdir(parents=True, exist_ok=True)
    page.goto(f"{url}/#/groups?pattern=shortcut")
    groups = page.locator(".list > li")
    groups.first.wait_for()
    take("groups")
    groups.first.locator(".question").click()
    shortcut = page.locator("article", has_text=SHORTCUT).first
    shortcut.locator("summary").first.click()
    take("group")
    page.goto(f"{url}/#/comparison")
    better = page.get_by_role("list", name="Better in")
    better.wait_for()
    take("comparison")
    better.locator(".side").nth(1).get_by_role("link").click()
    page.get_by_role("link", name="this prompt over versions").click()
    page.get_by_role("list", name="Versions").wait_for()
    take("versions")
    page.goto(f"{url}/#/curves")
    page.locator(".u-over").first.wait_for()
    take("curves")
    return taken


def main() -> None:
    url, folder = sys.argv[1].rstrip("/"), Path(sys.argv[2])
    options = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        take_pictures(browser.new_page(), url, folder)
        browser.close()


if __name__ == "__main__":
    main()
