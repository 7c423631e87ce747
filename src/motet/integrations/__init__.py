"""Other packages, each optional: none is imported by the core, and each is an extra that can be installed.

::

    extras             says what to install where a package is missing
    optuna             ``optimize``: a study whose trials run together (trial, trials, requeue: its parts)
    trackers           runs of a tracker from the events of a run: what all trackers share
    csv_files, tensorboard, mlflow, wandb, lightning_loggers     one tracker each
"""
