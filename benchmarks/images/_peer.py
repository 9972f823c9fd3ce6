"""An update of the public S-JKO code (github.com/Jae-Moo/Scalable-JKO), with networks and average of a clone of it.

The loop is that of its ``train.py`` in a later phase, in its order of operations. Left out, in its favor: its loader on the host,
``DataParallel`` and what it logs.
"""

import copy
import importlib
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MODELS = {"small": "otm", "large": "ncsnpp"}
# Defaults of its argument parser.
SETTINGS: dict[str, Any] = {
    "dataset": "cifar10",
    "image_size": 32,
    "num_channels": 3,
    "centered": True,
    "num_channels_dae": 128,
    "n_mlp": 4,
    "ch_mult": [1, 2, 2, 2],
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
    "dropout": 0.0,
    "resamp_with_conv": True,
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "progressive_input": "residual",
    "progressive_combine": "sum",
    "embedding_type": "positional",
    "fourier_scale": 16.0,
    "not_use_tanh": False,
    "z_emb_dim": 256,
    "nz": 100,
    "ngf": 64,
}


class PeerLoop:
    """Both networks, their optimizers and a frozen copy of the generator, on random images."""

    def __init__(self, clone: Path, pair: str, batch: int, device: torch.device) -> None:
        models, utils = _imported(clone)
        self.critic, self.generator = (
            net.to(device) for net in models.get_model(Namespace(model_name=MODELS[pair], **SETTINGS))
        )
        self.before = copy.deepcopy(self.generator).requires_grad_(False)
        adam = lambda net, lr: torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.9))  # noqa: E731
        self.critics = adam(self.critic, 1e-4)
        self.generators = utils.EMA(adam(self.generator, 2e-4), ema_decay=0.9999)
        self.source = (batch, 192) if pair == "small" else (batch, 3, 32, 32)
        self.batch, self.device = batch, device

    def run(self, updates: int) -> None:
        """Make some updates of both networks."""
        for _ in range(updates):
            self._ascend()
            self._descend()

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device)

    def _ascend(self) -> None:
        self.critic.requires_grad_(True)
        self.critic.zero_grad()
        real = (2 * torch.rand(self.batch, 3, 32, 32, device=self.device) - 1).requires_grad_(True)
        v = self.critic(real + torch.randn_like(real) / 64)
        torch.expm1(-v).mean().backward(retain_graph=True)
        (slope,) = torch.autograd.grad(v.sum(), real, create_graph=True)
        (0.1 * slope.flatten(1).norm(2, dim=1).square().mean()).backward()
        fake = self.generator(self._normal(*self.source), self._normal(self.batch, SETTINGS["nz"]))
        self.critic(fake).mean().backward()
        self.critics.step()

    def _descend(self) -> None:
        self.critic.requires_grad_(False)
        self.generator.zero_grad()
        x = self._normal(*self.source)
        with torch.no_grad():
            old = self.before(x, self._normal(self.batch, SETTINGS["nz"]))
        fake = self.generator(x, self._normal(self.batch, SETTINGS["nz"]))
        cost = (fake - old).flatten(1).square().mean(1)
        (0.5 * cost / 0.1 - self.critic(fake).flatten()).mean().backward()
        self.generators.step()


def _imported(clone: Path) -> tuple[Any, Any]:
    """Import the modules of a clone by their own names, in the place of others that had them."""
    for name in [n for n in sys.modules if n.partition(".")[0] in ("models", "utils")]:
        del sys.modules[name]
    sys.path.insert(0, str(clone.resolve()))
    try:
        return importlib.import_module("models"), importlib.import_module("utils")
    finally:
        sys.path.remove(str(clone.resolve()))
