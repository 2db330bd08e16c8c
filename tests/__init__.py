"""Tests, laid out like the code; README.md says what runs when."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # busy threads of several processes slow one another down tenfold
os.environ["COLUMNS"] = "200"  # messages are not broken where no terminal is
