"""Wasserstein gradient flows in PyTorch: functionals, estimators, measures and time discretizations that compose."""

from wgflow.core import startup  # noqa: F401  takes Ctrl-C while the others are imported
from wgflow.core.moved import find_moved

# isort: split
from importlib import import_module
from typing import TYPE_CHECKING, Any

from wgflow import maps, plotting, presets, reference
from wgflow.core.errors import (
    BadInput,
    CannotWrite,
    CheckpointError,
    DataNotFound,
    Diverged,
    EfficiencyWarning,
    Incompatible,
    MissingDependency,
    NotConverged,
    Unsupported,
    WgflowError,
)
from wgflow.core.ranks import shared_sums
from wgflow.core.version import VERSION as __version__
from wgflow.driver.callbacks import Callback, Evaluate, JsonLog, KeepBest, Progress, StopAt, StopWhen, StopWhenFlat
from wgflow.driver.checkpoint import Checkpoint
from wgflow.driver.compatibility import why_not
from wgflow.driver.pacing import EqualMovement
from wgflow.driver.schedules import Geometric, Halving, Piecewise, PowerDecay
from wgflow.driver.solution import Save, Solution
from wgflow.driver.solve import solve
from wgflow.estimators import (
    ESTIMATORS,
    R1,
    Augmentation,
    Autograd,
    Blob,
    Clipped,
    Critic,
    Estimator,
    EvaluationNoise,
    GradientPenalty,
    KDEScore,
    KernelCritic,
    LearnedScore,
    MeanShift,
    MixedNegatives,
    Penalty,
    ProximalScore,
    Stein,
    Total,
    TwoBatch,
    UnitSpeed,
    register_estimator,
    spectral_norm,
    velocity_at,
)
from wgflow.functionals import (
    FUNCTIONALS,
    KALE,
    KL,
    MMD,
    W1,
    Annealed,
    Chi2,
    Chi2Signed,
    Chi2Tight,
    CrossEntropy,
    EnergyDistance,
    Entropy,
    FDivergence,
    Functional,
    Guided,
    Identity,
    ImplicitScoreMatching,
    InFeatures,
    InteractionEnergy,
    JSExact,
    JSNonSaturating,
    KLDonskerVaradhan,
    KLUncentred,
    LearnedFeatures,
    NegativeLogLikelihood,
    PerClass,
    PotentialEnergy,
    PowerEntropy,
    ProximalKL,
    Scaled,
    SinkhornDivergence,
    SlicedEnergyDistance,
    SlicedWasserstein,
    Softplus,
    SquaredKSD,
    SquaredMMD,
    SquaredW2,
    Sum,
    entropy,
    guided,
    register_functional,
)
from wgflow.kernels import (
    KERNELS,
    RBF,
    FeatureKernel,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Logarithmic,
    Matern,
    MedianRBF,
    Morse,
    NearestRBF,
    Nystrom,
    PowerLaw,
    RandomFourierFeatures,
    Riesz,
    register_kernel,
)
from wgflow.kernels.densities import DensityModel, KernelDensity, Spacings
from wgflow.maps import MAPS, register_map
from wgflow.measures import (
    MEASURES,
    Balanced,
    Chain,
    Dataset,
    ExactPotential,
    FactorCovariance,
    FullPrecision,
    Gaussian,
    GaussianMixture,
    Grid,
    KernelScoreModel,
    L1Potential,
    Labelled,
    LabelledLatent,
    LaplaceNormalizer,
    LocalGaussians,
    LocalPrecision,
    Measure,
    MonteCarloNormalizer,
    MovingMeasure,
    Noising,
    Normalizer,
    OfEveryClass,
    Paired,
    Particles,
    ProximalMixture,
    Pushforward,
    QuadraticPotential,
    QuadratureNormalizer,
    Regression,
    Reversed,
    SeparablePotential,
    Smoothed,
    StandardNormal,
    Streamed,
    Successor,
    Unnormalised,
    WassersteinProximal,
    ema_decay,
    instance_noise,
    register_measure,
    rwpo,
    twenty_five_gaussians,
)
from wgflow.optim import LBFGS, SGD, Adam, Cosine
from wgflow.presets import Flow, fit_kernel_score
from wgflow.solvers import (
    JKO,
    ODE,
    RK4,
    SOLVERS,
    Accelerated,
    AdamsBashforth,
    BirthDeath,
    BoundedEuler,
    EntropicJKO,
    ForwardBackward,
    ForwardEuler,
    Heun,
    Langevin,
    MetropolisLangevin,
    Proximal,
    Reaction,
    Reweight,
    RungeKutta,
    Solver,
    State,
    Tableau,
    WithReaction,
    register_solver,
    transport_cost,
)

if TYPE_CHECKING:
    from wgflow import bench, testing

find_moved()


def __getattr__(name: str) -> Any:
    """Import what few programs use when it is first asked for."""
    if name in ("bench", "generative", "testing"):
        return import_module(f"wgflow.{name}")
    if name == "load_generator":
        return import_module("wgflow.generative").load_generator
    raise AttributeError(f"module 'wgflow' has no attribute {name!r}")


# fmt: off
__all__ = [
    "ESTIMATORS", "FUNCTIONALS", "JKO", "KALE", "KERNELS", "KL", "LBFGS", "MAPS", "MEASURES", "MMD", "ODE", "R1", "RBF",
    "RK4", "SGD", "SOLVERS", "W1", "Accelerated", "Adam", "AdamsBashforth", "Annealed", "Augmentation", "Autograd", "BadInput",
    "Balanced", "BirthDeath", "Blob", "BoundedEuler", "Callback", "CannotWrite", "Chain", "Checkpoint",
    "CheckpointError", "Chi2", "Chi2Signed", "Chi2Tight", "Clipped", "Cosine", "Critic", "CrossEntropy", "DataNotFound",
    "Dataset", "DensityModel", "Diverged", "EfficiencyWarning", "EnergyDistance", "EntropicJKO", "Entropy", "EqualMovement", "Estimator",
    "Evaluate", "EvaluationNoise", "ExactPotential", "FDivergence", "FactorCovariance", "FeatureKernel", "Flow", "ForwardBackward",
    "ForwardEuler", "FullPrecision", "Functional", "Gaussian", "GaussianMixture", "Geometric", "GradientPenalty",
    "Grid", "Guided", "Halving", "Heun", "Identity", "ImplicitScoreMatching", "InFeatures", "Incompatible",
    "InteractionEnergy", "InverseMultiquadric", "JSExact", "JSNonSaturating", "JsonLog", "KDEScore",
    "KLDonskerVaradhan", "KLUncentred", "KeepBest", "Kernel", "KernelCritic", "KernelDensity", "KernelScoreModel",
    "L1Potential", "Labelled", "LabelledLatent", "Langevin", "Laplace", "LaplaceNormalizer", "LearnedFeatures",
    "LearnedScore", "LocalGaussians", "LocalPrecision", "Logarithmic", "Matern", "MeanShift", "Measure", "MedianRBF",
    "MetropolisLangevin", "MissingDependency", "MixedNegatives", "MonteCarloNormalizer", "Morse", "MovingMeasure",
    "NearestRBF", "NegativeLogLikelihood", "Noising", "Normalizer", "NotConverged", "Nystrom", "OfEveryClass", "Paired",
    "Particles", "Penalty", "PerClass", "Piecewise", "PotentialEnergy", "PowerDecay", "PowerEntropy", "PowerLaw",
    "Progress", "Proximal", "ProximalKL", "ProximalMixture", "ProximalScore", "Pushforward", "QuadraticPotential",
    "QuadratureNormalizer", "RandomFourierFeatures", "Reaction", "Regression", "Reversed", "Reweight", "Riesz",
    "RungeKutta", "Save", "Scaled", "SeparablePotential", "SinkhornDivergence", "SlicedEnergyDistance",
    "SlicedWasserstein", "Smoothed", "Softplus",
    "Solution", "Solver", "Spacings", "SquaredKSD", "SquaredMMD", "SquaredW2", "StandardNormal", "State", "Stein", "StopAt", "StopWhen",
    "StopWhenFlat", "Streamed", "Successor", "Sum", "Tableau", "Total", "TwoBatch", "UnitSpeed", "Unnormalised", "Unsupported",
    "WassersteinProximal", "WgflowError", "WithReaction", "__version__", "bench", "ema_decay", "entropy",
    "fit_kernel_score", "guided", "instance_noise", "maps", "plotting", "presets", "reference", "register_estimator",
    "register_functional", "register_kernel", "register_map", "register_measure", "register_solver", "rwpo",
    "shared_sums", "solve", "spectral_norm", "testing", "transport_cost", "twenty_five_gaussians", "velocity_at",
    "why_not",
]
# fmt: on
