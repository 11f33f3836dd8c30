"""Processes that compile kernels for another CPU, or for another width of vectors."""

import os
import subprocess
import sys
from pathlib import Path


def run(script, *arguments, **environment):
    """Run a script of this folder and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=280, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
