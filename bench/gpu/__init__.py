"""Whether everything that needs CUDA works, step by step: `python -m bench.gpu`."""
