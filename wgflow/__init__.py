"""Wasserstein gradient flows in PyTorch: functionals, estimators, measures and time discretizations that compose."""

from importlib.metadata import PackageNotFoundError, version

from wgflow import presets
from wgflow.callbacks import Callback, Evaluate, JsonLog, Progress, StopWhen
from wgflow.checkpoint import Checkpoint
from wgflow.compatibility import why_not
from wgflow.errors import (
    BadInput,
    CheckpointError,
    DataNotFound,
    Diverged,
    Incompatible,
    MissingDependency,
    Unsupported,
    WgflowError,
)
from wgflow.estimators import ESTIMATORS, R1, Autograd, Critic, Estimator, register_estimator
from wgflow.functionals import (
    FUNCTIONALS,
    KL,
    Chi2,
    Chi2Signed,
    Chi2Tight,
    FDivergence,
    Functional,
    Identity,
    JSExact,
    JSNonSaturating,
    KLDonskerVaradhan,
    KLUncentred,
    PotentialEnergy,
    Scaled,
    Softplus,
    Sum,
    entropy,
    register_functional,
)
from wgflow.measures import (
    Dataset,
    Gaussian,
    GaussianMixture,
    Measure,
    MovingMeasure,
    Particles,
    Pushforward,
    Regression,
    Smoothed,
    StandardNormal,
    Successor,
    Unnormalised,
    ema_decay,
    instance_noise,
    twenty_five_gaussians,
)
from wgflow.optim import SGD, Adam, Cosine
from wgflow.presets import Flow
from wgflow.solution import Save, Solution
from wgflow.solve import solve
from wgflow.solvers import JKO, SOLVERS, ForwardEuler, Solver, State, register_solver, transport_cost

try:
    __version__ = version("wgflow")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "ESTIMATORS",
    "FUNCTIONALS",
    "JKO",
    "KL",
    "R1",
    "SGD",
    "SOLVERS",
    "Adam",
    "Autograd",
    "BadInput",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "Chi2",
    "Chi2Signed",
    "Chi2Tight",
    "Cosine",
    "Critic",
    "DataNotFound",
    "Dataset",
    "Diverged",
    "Estimator",
    "Evaluate",
    "FDivergence",
    "Flow",
    "ForwardEuler",
    "Functional",
    "Gaussian",
    "GaussianMixture",
    "Identity",
    "Incompatible",
    "JSExact",
    "JSNonSaturating",
    "JsonLog",
    "KLDonskerVaradhan",
    "KLUncentred",
    "Measure",
    "MissingDependency",
    "MovingMeasure",
    "Particles",
    "PotentialEnergy",
    "Progress",
    "Pushforward",
    "Regression",
    "Save",
    "Scaled",
    "Smoothed",
    "Softplus",
    "Solution",
    "Solver",
    "StandardNormal",
    "State",
    "StopWhen",
    "Successor",
    "Sum",
    "Unnormalised",
    "Unsupported",
    "WgflowError",
    "__version__",
    "ema_decay",
    "entropy",
    "instance_noise",
    "presets",
    "register_estimator",
    "register_functional",
    "register_solver",
    "solve",
    "transport_cost",
    "twenty_five_gaussians",
    "why_not",
]
