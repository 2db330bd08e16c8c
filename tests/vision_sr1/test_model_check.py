"""Parts of a model that do not belong together are found at the start."""

import json
import shutil
from pathlib import Path

import pytest

from vision_sr1.config import ConfigError
from vision_sr1.model_check import check_model


def changed(model: Path, folder: Path, file: str, **values: object) -> str:
    shutil.copytree(model, folder / "model")
    path = folder / "model" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return str(folder / "model")


def test_a_whole_model_passes(tiny_model: Path, untied_model: Path):
    check_model(str(tiny_model))
    check_model(str(untied_model))


def test_a_folder_that_is_no_model_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"model.path .* cannot be read"):
        check_model(str(tmp_path / "nothing"))


def test_another_kind_of_model_is_refused(tmp_path: Path, tiny_model: Path):
    with pytest.raises(ConfigError, match="'qwen3'; known here: qwen2_5_vl|cannot be read"):
        check_model(changed(tiny_model, tmp_path, "config.json", model_type="qwen3"))


def test_a_processor_of_another_model_is_refused_with_both_values(tmp_path: Path, tiny_model: Path):
    files = [path.name for path in tiny_model.glob("*processor*.json")]
    file = "preprocessor_config.json" if "preprocessor_config.json" in files else files[0]
    tree = json.loads((tiny_model / file).read_text())
    values = (
        {"image_processor": tree["image_processor"] | {"patch_size": 16}}
        if "image_processor" in tree
        else {"patch_size": 16}
    )
    with pytest.raises(ConfigError, match="patch size: the model has 14, the image processor 16"):
        check_model(changed(tiny_model, tmp_path, file, **values))


def test_an_image_token_that_the_tokenizer_has_elsewhere_is_found(tmp_path: Path, tiny_model: Path):
    with pytest.raises(ConfigError, match="image token: the model has 3, the tokenizer"):
        check_model(changed(tiny_model, tmp_path, "config.json", image_token_id=3))
