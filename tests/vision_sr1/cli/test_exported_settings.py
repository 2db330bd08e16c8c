"""What an exported folder says besides its weights."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

from vision_sr1.cli.export.policy import end_replies_as_trained
from vision_sr1.config import load_config


@pytest.mark.parametrize("named", [0, [0, 7], None])
def test_generation_ends_where_the_actors_ended_it(tiny_model: Path, tmp_path: Path, named: int | list[int] | None):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    file = folder / "generation_config.json"
    if named is None:
        file.unlink()
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": named}))
    config = load_config(None, [], environment={}).config
    for _ in range(2):  # the second time there is nothing to add
        end_replies_as_trained(folder, config)
    end = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|im_end|>")
    before = [] if named is None else named if isinstance(named, list) else [named]
    assert GenerationConfig.from_pretrained(folder).eos_token_id == [*before, end]
