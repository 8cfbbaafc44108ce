"""Contenders without TensorFlow, for the test of alternating rounds; a child process imports this file alone."""

import os


def counts(baton, steps):
    """Takes turns of `steps` steps and tells of a variable of its environment."""
    while True:
        baton.start()
        baton.stop(steps, seen=float(os.environ.get("TURN_TAKER", "0")))


def fails(baton):
    baton.start()
    print("what the log holds", flush=True)
    raise ValueError("no such luck")
