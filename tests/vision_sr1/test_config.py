from pathlib import Path

import pytest

from vision_sr1.config import ConfigError, load_config, save_config


def test_unknown_key_is_refused_with_the_nearest_name():
    with pytest.raises(
        ConfigError, match=r"unknown key learner\.prompts_per_bach: did you mean learner\.prompts_per_batch\?"
    ):
        load_config(None, ["learner.prompts_per_bach=4"], environment={})


def test_unknown_key_inside_a_component_is_refused(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("learner: {components: [{name: a, reward: {accuracy: 1}, tokens: [response], wieght: 2}]}")
    with pytest.raises(ConfigError, match=r"learner\.components\[0\]\.wieght.*weight"):
        load_config(file, environment={})


def test_command_line_beats_environment_beats_file_and_origins_say_so(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("streams: {url: 'redis://file:1'}\nlearner: {batches: 7}\n")
    loaded = load_config(file, ["learner.batches=9"], environment={"VISION_SR1_REDIS_URL": "redis://environment:2"})
    assert loaded.config.streams.url == "redis://environment:2"
    assert loaded.config.learner.batches == 9
    origins = {key: origin for key, _, origin in loaded.rows()}
    assert origins["learner.batches"] == "command line"
    assert origins["streams.url"] == "environment VISION_SR1_REDIS_URL"
    assert origins["learner.components[0].reward.accuracy"] == "preset vision_sr1"
    assert origins["sampling.top_p"] == "default"


def test_a_password_is_neither_shown_nor_saved(tmp_path: Path):
    loaded = load_config(None, environment={"VISION_SR1_REDIS_PASSWORD": "hunter2"})
    assert "hunter2" not in str(loaded.rows())
    save_config(loaded.config, tmp_path / "saved.yaml")
    assert "hunter2" not in (tmp_path / "saved.yaml").read_text()


def test_saved_configuration_loads_to_the_same_tree(tmp_path: Path):
    config = load_config(None, ["learner.batches=3", "run.name=x"], environment={}).config
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml", environment={}).config == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.prompts_per_step=100", "must divide prompts_per_batch"),
        ("learner.preset=visoin_sr1", "unknown preset 'visoin_sr1'; known: vision_sr1"),
        ("sampling.temperature=-1", "sampling.temperature"),
        ("nonsense", "section.key=value"),
    ],
)
def test_bad_value_is_named(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override], environment={})


def test_default_preset_is_the_papers_objective_in_three_components():
    components = load_config(None, environment={}).config.learner.components
    assert [(c.name, c.reward, c.tokens) for c in components] == [
        ("answer", {"accuracy": 0.9, "format": 0.1}, ["reasoning"]),
        ("description", {"visual": 1.0}, ["description"]),
        ("requery", {"visual": 1.0}, ["requery"]),
    ]
