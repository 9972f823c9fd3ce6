"""Times that are sums of step sizes, held against those that somebody has named."""

ROUNDING = 1e-7
"""Relative, of such a sum and of a time that was written in single precision, where 0.1 is more than 0.1."""


def reached(t: float, time: float) -> bool:
    """Whether a flow that is at ``t`` has reached a time, up to rounding."""
    return t >= time * (1 - ROUNDING)
