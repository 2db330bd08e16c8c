"""`python -m tests.fuzz.coverage_guided TARGET SECONDS CORPUS`: atheris looks for inputs that crash a target."""

import sys

import atheris

with atheris.instrument_imports(include=["vision_sr1", "tests.fuzz"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    target, seconds, corpus = sys.argv[1:]
    limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=65536", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={corpus}/crash-", corpus], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
