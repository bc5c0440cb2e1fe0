from .evaluation.metrics import *  # noqa: F403
