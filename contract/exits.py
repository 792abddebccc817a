"""How a process ends that cannot begin."""

import os
import sys
from typing import NoReturn


def give_up(why: str) -> NoReturn:
    """Say what is wrong with the settings, and end with EX_CONFIG."""
    sys.stderr.write(f"{why}\n")
    sys.exit(os.EX_CONFIG)
