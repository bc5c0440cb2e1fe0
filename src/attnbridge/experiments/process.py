"""The process that trains: what of it is afterwards as it was, which of several writes, what an interrupt does."""

from __future__ import annotations

import logging
import os
import random
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

QUIET = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
    "lightning.fabric.utilities.seed",
)
"""Loggers that give hints on hardware and add-ons."""
PROCESS_GROUP = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
"""What Lightning tells the processes of a run by; without them a script's next run would start them a second time."""


def is_main_process() -> bool:
    """Whether this is the process that writes; Lightning starts the others with a rank."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


@contextmanager
def untouched() -> Iterator[None]:
    """Random state, threads, environment, logging, warnings, signals and what is deterministic are afterwards as they
    were before; a group of processes that was started stays together, until the script ends."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.get_num_threads()
    environment, levels = dict(os.environ), {name: logging.getLogger(name).level for name in QUIET}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    deterministic, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
            torch.set_num_threads(states[3])
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark
            kept = PROCESS_GROUP if torch.distributed.is_available() and torch.distributed.is_initialized() else ()
            for name in set(os.environ) - set(environment) - set(kept):
                del os.environ[name]
            os.environ.update(environment)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            for number, handler in handlers.items():
                if signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


@contextmanager
def interrupts() -> Iterator[None]:
    """An interrupt stays one: Lightning cleans up, and then leaves the process."""
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
