"""Functionals: what decreases along a flow."""

from wgflow.functionals.algebra import Scaled, Sum
from wgflow.functionals.annealed import Annealed
from wgflow.functionals.base import FUNCTIONALS, Functional, register_functional
from wgflow.functionals.chi2 import Chi2, Chi2Signed, Chi2Tight
from wgflow.functionals.divergences import KL, FDivergence, Identity, KLDonskerVaradhan, KLUncentred, entropy
from wgflow.functionals.energies import Entropy, InteractionEnergy, PotentialEnergy, PowerEntropy
from wgflow.functionals.features import InFeatures
from wgflow.functionals.guidance import Guided, guided
from wgflow.functionals.jensen_shannon import JSExact, JSNonSaturating, Softplus
from wgflow.functionals.kale import KALE, KALESolution
from wgflow.functionals.learned import LearnedFeatures
from wgflow.functionals.mmd import MMD, EnergyDistance, SquaredMMD
from wgflow.functionals.penalties import R1, GradientPenalty, Penalty
from wgflow.functionals.per_class import PerClass
from wgflow.functionals.proximal_kl import ProximalKL
from wgflow.functionals.score_matching import CrossEntropy, ImplicitScoreMatching, NegativeLogLikelihood
from wgflow.functionals.sinkhorn import SinkhornDivergence
from wgflow.functionals.sliced import SlicedEnergyDistance, SlicedWasserstein
from wgflow.functionals.stein import SquaredKSD
from wgflow.functionals.wasserstein import W1, SquaredW2
from wgflow.functionals.wrapped import Wrapped

__all__ = [
    "FUNCTIONALS",
    "KALE",
    "KL",
    "MMD",
    "R1",
    "W1",
    "Annealed",
    "Chi2",
    "Chi2Signed",
    "Chi2Tight",
    "CrossEntropy",
    "EnergyDistance",
    "Entropy",
    "FDivergence",
    "Functional",
    "GradientPenalty",
    "Guided",
    "Identity",
    "ImplicitScoreMatching",
    "InFeatures",
    "InteractionEnergy",
    "JSExact",
    "JSNonSaturating",
    "KALESolution",
    "KLDonskerVaradhan",
    "KLUncentred",
    "LearnedFeatures",
    "NegativeLogLikelihood",
    "Penalty",
    "PerClass",
    "PotentialEnergy",
    "PowerEntropy",
    "ProximalKL",
    "Scaled",
    "SinkhornDivergence",
    "SlicedEnergyDistance",
    "SlicedWasserstein",
    "Softplus",
    "SquaredKSD",
    "SquaredMMD",
    "SquaredW2",
    "Sum",
    "Wrapped",
    "entropy",
    "guided",
    "register_functional",
]
