"""The simulator: the real decision core before modelled engines, in virtual time. Entry: cli.py; from Python: run.py."""
