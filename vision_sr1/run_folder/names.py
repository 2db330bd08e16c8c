"""Names of files and folders in a run's folder; of checkpoints see `checkpoints`."""

SETTINGS = "config.yaml"  # the whole configuration, without secrets
SCALARS = "scalars.jsonl"  # the learner's curves, or how far an evaluation is
LEDGER = "batches.jsonl"  # which prompts each batch learned from
LOCK = "launcher.lock"  # of the process that works in the folder; the kernel releases it when that ends
TRACES = "traces.sqlite"
EVALUATION = "evaluation"  # answers to held-out questions, a file per version and split
ASKED = "asked.json"  # of an evaluation by `vision-sr1 eval`: what its answers depend on
EVALUATIONS = "evaluations"  # what `vision-sr1 eval` wrote about the run's checkpoints, a folder each
EXPORTS = "export"
SFT_OUTPUT = "sft"  # the model that supervised fine-tuning made
REDIS = "redis"  # of the server that the launcher starts
LOGS = "logs"
DEVICES = "devices"  # locks on devices that learner and actors share
TENSORBOARD = "tensorboard"
TRACKERS = "trackers.json"  # what trackers call the run
