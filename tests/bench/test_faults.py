import yaml

from bench.faults import RECORDED, RECORDINGS, notation


def test_the_deployed_file_has_every_recording_and_the_alerts_that_are_due():
    tests = yaml.safe_load(RECORDED.read_text())["tests"]
    due = {test["name"]: [sample["labels"] for sample in test["promql_expr_test"][-1]["exp_samples"]] for test in tests}
    assert due == {
        name: [f'{{alertname="VisionSR1{alert}"}}' for alert in sorted(recording.due)]
        for name, recording in RECORDINGS.items()
    }


def test_samples_are_written_as_promtool_reads_them():
    assert notation([1.0, 1.0, 1.0, 2.5]) == "1x2 2.5"
    assert notation([None, None, 4.0]) == "_x2 4"
    assert notation([4.0, None, None, 5.0]) == "4 stale _x1 5"
