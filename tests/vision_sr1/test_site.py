"""The site has no broken link, its references are complete, and the project's files agree on its version."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fastapi.routing import APIRoute

from scripts import site_pages
from vision_sr1 import __version__
from vision_sr1.config import load_config
from vision_sr1.config.loading import RENAMED

ROOT = Path(__file__).parents[2]
METRIC = re.compile(r"(?:Counter|Gauge|Histogram)\(\s*\"(vision_sr1_\w+)\"")


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = re.findall(r"<(?:script|img|link)\b[^>]*?(?:src|href)=\"(https?://[^\"]*)", page.read_text())
        assert not [url for url in loaded if 'rel="canonical"' not in url], f"{page.name} loads {loaded}"


def test_pages_of_the_root_lead_to_pages():
    text = "[a](docs/data.md#forms) [b](CONTRIBUTING.md) [c](pyproject.toml) [d](https://x.example/) ![e](docs/e.png)"
    assert site_pages.of_root(text) == "[a](data.md#forms) [b](contributing.md) c [d](https://x.example/) ![e](e.png)"


def test_every_setting_is_there():
    listed = [setting.name for setting in site_pages.settings()]
    assert len(listed) == len(set(listed))
    effective = {key.partition("[")[0] for key, _, _ in load_config(None, []).rows()}
    missing = {key for key in effective if key not in listed and key.rpartition(".")[0] not in listed}
    assert not missing
    assert {"learner.components[].clip_ratio_low", "reward.functions.NAME.timeout_s"} <= set(listed)
    page = site_pages.settings_page()
    assert not [name for name in listed if f"| `{name}` |" not in page]
    assert not [setting.name for setting in site_pages.settings() if not setting.meaning]


def test_every_command_is_there():
    listed = dict(site_pages.commands())
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    used = {" ".join(words) for words in re.findall(r"^ {4}(vision-sr1) ([a-z]+)", text, flags=re.MULTILINE)}
    assert used
    assert all(any(f"{words} ".startswith(f"{call} ") for words in listed) for call in used), used
    page = site_pages.commands_page()
    for words, command in listed.items():
        assert f"## {words}\n" in page
        for option in (option for parameter in command.params for option in parameter.opts if option.startswith("-")):
            assert option in page


@pytest.mark.slow
def test_every_metric_is_there():
    """Names as they stand in the source."""
    files = [file for package in site_pages.SERVICES for file in (ROOT / package).rglob("*.py")]
    written = {name for file in files for name in METRIC.findall(file.read_text(encoding="utf-8"))}
    assert len(written) > 50
    assert written - site_pages.prometheus_metrics().keys() == set()
    page = site_pages.prometheus_page()
    assert not [name for name in written if f"`{name}" not in page]


@pytest.mark.slow
def test_every_route_is_there():
    from reward_service.api.app import create_app
    from reward_service.api.context import ApiContext

    app = create_app(ApiContext(config=load_config(None, []).config, reader=None))  # type: ignore[arg-type]
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema]
    page = site_pages.rest_page()
    assert len(routes) > 10
    for route in routes:
        for method in route.methods:
            assert f"## {method} {route.path_format}\n" in page
            assert route.description or route.summary, f"{route.path} does not say what it does"


def test_there_is_one_version():
    newest = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__


def test_changes_name_every_renamed_setting():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert not [name for pair in RENAMED.items() for name in pair if f"`{name}" not in text]
