"""The simulator: the real decision core before modelled engines, in virtual time.

From a shell cli.py is the way in, from Python run.py.
"""
