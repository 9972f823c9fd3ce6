"""What every process of a training does; ``test_several_processes.py`` looks at what they leave behind."""

import os
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torchvision.datasets
from torch.distributed.distributed_c10d import _set_pg_timeout

import wgflow as wg
from wgflow.generative import ImageData, Recipe, autoencoder, fit, runtime
from wgflow.generative.spaces import home
from wgflow.generative.train import _pictures

IMAGES = torch.arange(8 * 64).reshape(8, 1, 8, 8).remainder(251).to(torch.uint8)
RECIPE = Recipe(num_steps=2, first_iters=2, iters=2, batch=4, channels=4, sinkhorn_n=0, network="small")


class Impatient(wg.Callback):
    """From now on the collectives of the run give up soon, but not as soon as one is late on a full machine."""

    def on_start(self, run: Any) -> None:
        _set_pg_timeout(timedelta(seconds=10.0), dist.group.WORLD)


class Slow:
    """Takes longer than a collective may; ``fails`` at its second call."""

    def __init__(self, fails: bool = False) -> None:
        self.calls, self.fails = 0, fails

    def __call__(self, rho: Any, rng: torch.Generator) -> dict[str, float]:
        self.calls += 1
        if self.fails and self.calls == 2:
            raise ValueError("no value")
        time.sleep(12 if self.calls == 2 else 0)
        return {"slow": float(self.calls)}


class SlowReader(wg.Callback):
    """The first process alone works for longer than a collective may, at the end of the first time step."""

    def on_step(self, run: Any, row: Any) -> None:
        if dist.get_rank() == 0 and run.state.k == 1:
            time.sleep(12)


class Where:
    """Looks at the law through draws of its own generator, and says which process it was."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, rho: Any, rng: torch.Generator) -> dict[str, float]:
        mean = float(rho.draw(16, torch.Generator().manual_seed(0)).x.double().mean())
        drawn = float(torch.rand((), generator=rng))
        return {f"{self.name} mean": mean, f"{self.name} drawn": drawn, f"{self.name} rank": float(dist.get_rank())}


class Broken(Where):
    def __call__(self, rho: Any, rng: torch.Generator) -> dict[str, float]:
        raise ValueError(f"{self.name} has no value")


class Fetched:
    """A data set of torchvision that counts its downloads in a folder; a folder called ``offline`` gets none."""

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        there = Path(root) / "there"
        if download and not there.exists():
            if Path(root).name == "offline":
                raise OSError("no route to host")
            time.sleep(0.5)
            (Path(root) / f"fetched-{os.getpid()}").touch()
            there.touch()
        if not there.exists():
            raise RuntimeError("Dataset not found")
        self.data = torch.arange(5 * 28 * 28).reshape(5, 28, 28).to(torch.uint8)
        self.targets = torch.zeros(5)


class Halves(torch.nn.Module):
    """Every second pixel; counts the images that it is shown."""

    seen = 0

    def encode(self, x: torch.Tensor) -> Any:
        Halves.seen += len(x)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: x[..., ::2, ::2] - 3))

    def decode(self, z: torch.Tensor) -> Any:
        return SimpleNamespace(sample=z.repeat_interleave(2, -1).repeat_interleave(2, -2))


def codes(folder: Path) -> torch.Tensor:
    """Return the codes of eight images and of the mirrored ones, three at a time."""
    autoencoder._CHUNK, Halves.seen = 3, 0
    recipe: Any = SimpleNamespace(pca=None, autoencoder="_several_processes_child:Halves")
    images = ImageData(IMAGES, flip=True)
    _, law = home(recipe, folder, images, images, torch.device("cpu"))
    return law.x  # type: ignore[attr-defined]


def error_of(work: Any) -> str:
    try:
        work()
    except (wg.WgflowError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def train_here(here: Any, folder: Path, *metrics: Any, recipe: Recipe = RECIPE, readers: Any = ()) -> wg.Solution:
    flow = recipe.flow(ImageData(IMAGES), here)
    return fit(
        flow, folder, here, record={}, metrics=metrics, every=2, callbacks=[Impatient(), *readers], progress=False
    )


def work(rank: int, world: int, folder: Path, port: int) -> None:
    """Do all cases as one process, in the same order in every one."""
    if Path("/sys/class/net/lo").exists():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    torch.set_num_threads(1)
    torchvision.datasets.MNIST = Fetched
    found: dict[str, Any] = {}
    alone = codes(folder)
    found["left"] = error_of(lambda: all_cases(rank, folder, alone, found))
    torch.save(found, folder / f"rank-{rank}.pt")


def all_cases(rank: int, folder: Path, alone: torch.Tensor, found: dict[str, Any]) -> None:
    with runtime("cpu") as here:
        online, offline = (
            Recipe(data="mnist", data_root=str(folder / name), download=True) for name in ("online", "offline")
        )
        assert Halves.seen == 16
        assert torch.equal(codes(folder), alone)
        found["encoded"] = Halves.seen
        found["images"] = len(_pictures(online, here))
        found["offline"] = error_of(lambda: _pictures(offline, here))
        solution = train_here(here, folder / "run", Slow())
        found["slow"] = [row.get("slow") for row in solution.history]
        found["failing"] = error_of(lambda: train_here(here, folder / "failing", Slow(fails=True)))
        dealt = train_here(here, folder / "dealt", *map(Where, "abc"), recipe=RECIPE.changed(network="conv"))
        found["dealt"] = dealt.history[-1]
        found["variances"] = sum(
            float(t.sum()) for n, t in dealt.measure.net.state_dict().items() if n.endswith("running_var")
        )
        found["broken"] = error_of(lambda: train_here(here, folder / "broken", Where("a"), Broken("b")))
        unequal = [Where("a"), Where("b")] if rank == 0 else []
        found["unequal"] = train_here(here, folder / "unequal", *unequal, readers=[SlowReader()]).history[-1]
        if rank == 1:
            raise ValueError("the user's own, outside of a flow")
        train_here(here, folder / "left")
