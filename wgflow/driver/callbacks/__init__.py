"""Callbacks read a run and never change it: progress, logs, metrics, stopping."""

from wgflow.driver.callbacks.base import Callback
from wgflow.driver.callbacks.evaluate import Evaluate, evaluate_all
from wgflow.driver.callbacks.keeping import KeepBest
from wgflow.driver.callbacks.logs import JsonLog, Progress, json_numbers
from wgflow.driver.callbacks.stopping import StopAt, StopWhen, StopWhenFlat

__all__ = [
    "Callback",
    "Evaluate",
    "JsonLog",
    "KeepBest",
    "Progress",
    "StopAt",
    "StopWhen",
    "StopWhenFlat",
    "evaluate_all",
    "json_numbers",
]
