"""Networks, and losses of them, by torch.compile, where a network is marked for it.

The mark goes along with every copy of a network; what was compiled belongs to one object and is made at its first call. Neither has
a part in names of weights, checkpoints or descriptions.
"""

import functools
import importlib.util
import inspect
import os
import shutil
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput, MissingDependency
from wgflow.core.words import shortened

Compile = bool | Literal["graphs"]
"""Whether to compile, and whether to replay the kernels of a call as one CUDA graph."""
MARK = "_wgflow_compile"
BACKEND = "inductor"
_DIFFERENTIATES = (2, 11)
"""The first version of torch whose compiler traces a derivative that a loss is made of, as a gradient penalty is."""
_VARIANTS = 64
"""Graphs of one function in a process: runs, networks, batch sizes and penalties of some updates only."""


def check_compiles(how: Compile, device: torch.device) -> None:
    """Raise before work starts where ``how`` cannot be had on this device.

    Raises
    ------
    BadInput
        For CUDA graphs without a GPU.
    MissingDependency
        For a torch that is too old, or a machine without the compiler that torch hands its code to.
    """
    if not how:
        return
    if how == "graphs" and device.type != "cuda":
        raise BadInput(f"compile='graphs' on {device}: CUDA graphs need a GPU. Use compile=True")
    if torch.__version__ < _DIFFERENTIATES:  # type: ignore[operator]
        raise MissingDependency(
            f"compile needs torch {'.'.join(map(str, _DIFFERENTIATES))} or newer, and this is {torch.__version__}: older ones cannot "
            "compile a gradient penalty. Upgrade torch, or leave compile out",
            name="torch",
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise MissingDependency(
            "compile needs Triton on a GPU, and it is not installed. Leave compile out", name="triton"
        )
    compiler = os.environ.get("CXX", "")
    if not any(shutil.which(name) for name in (compiler, "g++", "clang++", "c++", "cl") if name):
        raise MissingDependency(
            "compile needs a C++ compiler (g++ or clang++, or the one that CXX names), and there is none on the PATH. Install one, or "
            "leave compile out",
            name="g++",
        )


def mark(net: nn.Module, how: Compile) -> nn.Module:
    """Return the network, marked to be compiled in training, by itself and in losses."""
    setattr(net, MARK, how)
    return net


def run(net: Any, *inputs: Tensor) -> Any:
    """Return ``net(*inputs)``, compiled where the network is marked and in training mode.

    In evaluation mode, whose batches have many sizes, it is called as it is.
    """
    how = getattr(net, MARK, False)
    if not how:
        return net(*inputs)
    if not net.training:
        return net._call_impl(*inputs)  # net(*inputs) is compiled once net.compile() was called
    compiled = net._compiled_call_impl
    # A network with a __deepcopy__ of its own, as parametrizations give it, may have copied that of another one.
    if compiled is None or inspect.unwrap(compiled).__self__ is not net:
        net.compile(**_options(how))
    with _configured():
        found = net(*inputs)
    return found.clone() if how == "graphs" else found


def as_one_graph(loss: Callable[..., tuple[Tensor, dict[str, Tensor]]], net: Any) -> Callable[..., Any]:
    """Return a loss of a network, and what it reports, compiled as a whole where the network is marked.

    A compiled network alone can be differentiated once. In a compiled loss the derivatives that it is made of are part of the
    graph, so that those of a gradient penalty, which are differentiated again, are compiled as well.

    Raises
    ------
    BadInput
        At the first call, for a loss that torch cannot trace.
    """
    how = getattr(net, MARK, False)
    return _one_graph(loss, how, BACKEND) if how else loss


@functools.cache
def _one_graph(loss: Callable[..., Any], how: Compile, backend: str) -> Callable[..., Any]:
    compiled = torch.compile(loss, fullgraph=True, **_options(how))

    @functools.wraps(loss)
    def called(*args: Any) -> Any:
        with _configured():
            try:
                value, told = compiled(*args)
            except torch._dynamo.exc.TorchDynamoException as error:
                raise BadInput(
                    f"compile={how!r}: torch cannot trace this loss as one graph ({shortened(str(error).partition(chr(10))[0])}). Leave "
                    "compile out, or write the function of yours that it names with operations of torch alone"
                ) from error
        # The next replay of a graph writes its results to the same place.
        return value, {k: v.clone() for k, v in told.items()} if how == "graphs" else told

    return called


def _options(how: Compile) -> dict[str, Any]:
    # Static sizes: what is computed does not depend on which sizes a process has seen before, so that runs resume to the last bit.
    found: dict[str, Any] = {"backend": BACKEND, "dynamic": False}
    return found | ({"mode": "reduce-overhead"} if how == "graphs" else {})


def _configured() -> Any:
    config: Any = torch._dynamo.config
    return config.patch(trace_autograd_ops=True, recompile_limit=_VARIANTS)
