"""The methods of papers, each a combination of parts with the settings of its paper."""

from typing import Any

from wgflow.core.registry import Registry
from wgflow.presets._chains import classic_jko
from wgflow.presets._distances import ksd_descent, mmd_flow, sinkhorn_flow, sliced_w_flow
from wgflow.presets._drifts import drifting, energy_drift, mmd_drift, w_flow
from wgflow.presets._euler_generators import w1_fe, w2_fe, wgan_gp, wgan_lp
from wgflow.presets._flow import Flow, option_texts, options_of
from wgflow.presets._generators import f_gan, otm, s_jko, uotm_source_fixed
from wgflow.presets._gwf import gwf
from wgflow.presets._kernel_score import (
    KernelScoreFit,
    fit_kernel_score,
    probability_flow,
    reverse_diffusion,
)
from wgflow.presets._langevin import birth_death_langevin, mala, ula
from wgflow.presets._particles import accelerated, blob, gfsd, proximal_gradient, svgd, wfr
from wgflow.presets._proximals import arwp, brwp, brwp_splitting, prwp
from wgflow.presets._split import PointSplit, isotropic_kde, split_points

PRESETS: Registry[Any] = Registry("preset")
_ALL: tuple[Any, ...] = (s_jko, uotm_source_fixed, otm, f_gan, gwf, classic_jko)
_ALL += (w1_fe, wgan_gp, wgan_lp, w2_fe)
_ALL += (
    svgd,
    ula,
    mala,
    mmd_flow,
    sliced_w_flow,
    sinkhorn_flow,
    ksd_descent,
    blob,
    gfsd,
    brwp,
    arwp,
    prwp,
    brwp_splitting,
)
_ALL += (proximal_gradient, accelerated, wfr, birth_death_langevin)
_ALL += (reverse_diffusion, probability_flow)
_ALL += (w_flow, mmd_drift, energy_drift, drifting)
for _preset in _ALL:
    PRESETS.register(_preset.__name__)(_preset)

__all__ = [
    "PRESETS",
    "Flow",
    "KernelScoreFit",
    "PointSplit",
    "accelerated",
    "arwp",
    "birth_death_langevin",
    "blob",
    "brwp",
    "brwp_splitting",
    "classic_jko",
    "drifting",
    "energy_drift",
    "f_gan",
    "fit_kernel_score",
    "gfsd",
    "gwf",
    "isotropic_kde",
    "ksd_descent",
    "mala",
    "mmd_drift",
    "mmd_flow",
    "option_texts",
    "options_of",
    "otm",
    "probability_flow",
    "proximal_gradient",
    "prwp",
    "reverse_diffusion",
    "s_jko",
    "sinkhorn_flow",
    "sliced_w_flow",
    "split_points",
    "svgd",
    "ula",
    "uotm_source_fixed",
    "w1_fe",
    "w2_fe",
    "w_flow",
    "wfr",
    "wgan_gp",
    "wgan_lp",
]
