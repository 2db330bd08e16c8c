from pathlib import Path

import datasets
import pytest

from vision_sr1.cli.demo.summary import _guessed, _most_frequent_answers
from vision_sr1.config import load_config

RL = Path(__file__).parents[3] / "examples" / "shapes" / "rl.yaml"


def test_guessing_is_the_most_frequent_training_answer_to_the_same_question(tmp_path: Path):
    asked = [("is it red?", "no"), ("is it red?", "yes"), ("is it red?", "no"), ("how many?", "3")]
    file = tmp_path / "train.parquet"
    datasets.Dataset.from_list([{"problem": text, "answer": answer} for text, answer in asked]).to_parquet(file)
    guesses = _most_frequent_answers(load_config(RL, [f"data.train={file}"]).config)
    held_out = [("is it red?", "no"), ("is it red?", "yes"), ("how many?", "3"), ("never asked in training", "no")]
    answers = [{"question": text, "reference": answer} for text, answer in held_out]
    assert _guessed(guesses, answers) == {"accuracy": pytest.approx(0.5)}
