"""Models and training loops to measure with: ordinary PyTorch, with no trace of Motet.

A loop takes ``wrap`` (how the model becomes a `DistributedDataParallel`, by default with its default options),
trains a few steps to warm up, calls ``ready()``, trains ``steps`` more and returns when it was done
(`time.perf_counter`). Data is random and made beforehand: reading data is not what is measured.
"""
