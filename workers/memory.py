"""How much memory there is where the model computes, and how much of it is taken; bytes."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_of(device: torch.device) -> Mapping[str, Callable[[], float]]:
    """By kind: `used` by tensors, `reserved` by their pool, `total`; on a CPU the first two are the resident set."""
    if device.type == "cuda":
        return {
            "used": lambda: torch.cuda.memory_allocated(device),
            "reserved": lambda: torch.cuda.memory_reserved(device),
            "total": lambda: torch.cuda.mem_get_info(device)[1],
        }
    return {"used": _resident, "reserved": _resident, "total": lambda: _PAGE * os.sysconf("SC_PHYS_PAGES")}


def _resident() -> float:
    statm = Path("/proc/self/statm")  # where there is none, nothing is told
    return _PAGE * int(statm.read_text().split()[1]) if statm.is_file() else 0
