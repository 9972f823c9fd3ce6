"""Pictures of flows and trainings, by matplotlib (extra ``plot``).

Functions draw on the Axes they are given, or make a figure and return it. pyplot knows nothing of that figure, so that it goes
when nobody needs it any more and no screen is asked for: a notebook shows it as the value of a cell, ``figure.savefig`` writes
it, and what ``plt.show()`` is to show is drawn on Axes of ``plt.subplots()``. Points with more than two coordinates need ``dims``.
"""

from wgflow.plotting._animation import Movie, animate
from wgflow.plotting._curves import energy, values_along
from wgflow.plotting._field import vector_field
from wgflow.plotting._memorization import memorization
from wgflow.plotting._moving import Moving
from wgflow.plotting._order import order
from wgflow.plotting._particles import particles
from wgflow.plotting._training import training_curves
from wgflow.plotting._trajectories import trajectories

__all__ = [
    "Movie",
    "Moving",
    "animate",
    "energy",
    "memorization",
    "order",
    "particles",
    "training_curves",
    "trajectories",
    "values_along",
    "vector_field",
]
