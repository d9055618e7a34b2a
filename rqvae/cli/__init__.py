"""The commands: arguments, exit codes, signals, threads.

`train.py`, `infer.py`, `rqvae` and `python -m rqvae` end here.
"""
