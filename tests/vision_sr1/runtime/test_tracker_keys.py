"""Keys of experiment trackers are looked for where their libraries look."""

from pathlib import Path

import pytest

from vision_sr1.config import Config, ConfigError, load_config
from vision_sr1.runtime.trackers import check_trackers


@pytest.fixture
def config() -> Config:
    return load_config(None, ["metrics.trackers=[wandb]"], environment={}).config


def test_a_missing_key_is_told(config: Config, tmp_path: Path):
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    for environment in ({"NETRC": "/no/netrc"}, {"NETRC": str(tmp_path / "netrc"), "WANDB_BASE_URL": "https://other"}):
        with pytest.raises(ConfigError, match="wandb has no API key here: run `wandb login`, set WANDB_API_KEY"):
            check_trackers(config, environment)


def test_a_server_that_is_no_url_is_told_and_an_empty_one_is_the_default(config: Config, tmp_path: Path):
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    environment = {"NETRC": str(tmp_path / "netrc"), "WANDB_BASE_URL": "http://[::1"}
    with pytest.raises(ConfigError, match=r"WANDB_BASE_URL=http://\[::1 is not a URL \(Invalid IPv6 URL\)"):
        check_trackers(config, environment)
    check_trackers(config, environment | {"WANDB_BASE_URL": ""})


def test_a_key_is_found(config: Config, tmp_path: Path):
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    for environment in (
        {"WANDB_API_KEY": "key"},
        {"WANDB_MODE": "offline", "NETRC": "/no/netrc"},
        {"NETRC": str(tmp_path / "netrc")},
    ):
        check_trackers(config, environment)
