r"""Convolutions that cost no more the second time they are differentiated: what R1 asks of a critic.

A convolution is bilinear in its input and its weight, so that the derivatives of it and of its two derivatives are
again one of the three, with arguments exchanged:

.. math:: C(x,w),\qquad D(g,w)=(\partial_x C)^\top g,\qquad W(g,x)=(\partial_w C)^\top g .

PyTorch writes the derivative of :math:`D` in :math:`w`, and all that it needs for a kernel that is fixed, as forward
convolutions whose kernels are as large as the image, in a loop over groups. Here it is :math:`W`, the same operation as in an
ordinary backward pass, and a fixed kernel has none.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from wgflow.core.context import without_autocast


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with one group, no dilation and zeros outside: same weights, values and derivatives of every order.

    It has the name of its base: descriptions by which runs are told apart, and stored weights, are those of before.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not torch.is_grad_enabled():
            return super()._conv_forward(x, weight, bias)
        place = x.device.type
        if torch.amp.is_autocast_available(place) and torch.is_autocast_enabled(place):
            kind = torch.get_autocast_dtype(place)
            x, weight, bias = x.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
        # A view is no leaf: of leaves PyTorch does not say whether torch.autograd.grad asks for them.
        weight, bias = weight.view_as(weight), None if bias is None else bias.view_as(bias)
        return _Convolved.apply(x, weight, bias, self.stride, self.padding)


def resampled(h: Tensor, kernel: Tensor, up: bool, odd: Sequence[int] = (0, 0)) -> Tensor:
    """Convolve every channel of ``h`` with a fixed 4×4 ``kernel`` at stride 2, or apply the transposed map if ``up``.

    ``odd`` are the rows and columns by which the result of the transposed map exceeds twice the size of ``h``.
    """
    return _Resampled.apply(h, kernel.to(h.dtype), up, tuple(odd))


class _Convolved(torch.autograd.Function):
    """C(x, w), plus a bias."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        return nnf.conv2d(x, w, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, w, _, *ctx.how = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        wanted = [_asked(ctx, i) for i in range(3)]
        if not torch.is_grad_enabled():
            stride, padding = ctx.how
            return *_derivatives(g, x, w, stride, padding, wanted), None, None
        dx = _InInput.apply(g, w, x.detach(), *ctx.how) if wanted[0] else None
        dw = _InWeight.apply(g, x, w.detach(), *ctx.how) if wanted[1] else None
        return dx, dw, g.sum((0, 2, 3)) if wanted[2] else None, None, None


class _InInput(torch.autograd.Function):
    """D(g, w); of ``x`` only shape and layout count."""

    @staticmethod
    def forward(g: Tensor, w: Tensor, x: Tensor, stride: Any, padding: Any) -> Tensor:
        return _derivatives(g, x, w, stride, padding, (True, False, False))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        g, w, _, *ctx.how = inputs
        ctx.save_for_backward(g, w)

    @staticmethod
    def backward(ctx: Any, gg: Tensor) -> Any:
        g, w = ctx.saved_tensors
        dg = _Convolved.apply(gg, w, None, *ctx.how) if _asked(ctx, 0) else None
        dw = _InWeight.apply(g, gg, w.detach(), *ctx.how) if _asked(ctx, 1) else None
        return dg, dw, None, None, None


class _InWeight(torch.autograd.Function):
    """W(g, x); of ``w`` only shape and layout count."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, w: Tensor, stride: Any, padding: Any) -> Tensor:
        return _derivatives(g, x, w, stride, padding, (False, True, False))[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        g, x, _, *ctx.how = inputs
        ctx.save_for_backward(g, x)

    @staticmethod
    def backward(ctx: Any, gw: Tensor) -> Any:
        g, x = ctx.saved_tensors
        dg = _Convolved.apply(x, gw, None, *ctx.how) if _asked(ctx, 0) else None
        dx = _InInput.apply(g, gw, x.detach(), *ctx.how) if _asked(ctx, 1) else None
        return dg, dx, None, None, None


def _derivatives(g: Tensor, x: Tensor, w: Tensor, stride: Any, padding: Any, wanted: Sequence[bool]) -> Any:
    return torch.ops.aten.convolution_backward(g, x, w, w.shape[:1], stride, padding, (1, 1), False, (0, 0), 1, wanted)


def _asked(ctx: Any, i: int) -> bool:
    """Whether the backward pass that is going on needs the derivative in the i-th input.

    ``ctx.needs_input_grad`` says whether anybody could ask. The gradient in an image is asked for without those in the weights, and the
    generator's without those in the critic's.
    """
    if not ctx.needs_input_grad[i] or torch.compiler.is_compiling():  # a compiler removes what nobody needs
        return ctx.needs_input_grad[i]
    try:
        return torch._C._will_engine_execute_node(ctx.next_functions[i][0])
    except RuntimeError:  # a leaf that is asked for
        return True


class _Resampled(torch.autograd.Function):
    """A linear map and its transpose, which are the derivatives of each other."""

    @staticmethod
    def forward(h: Tensor, kernel: Tensor, up: bool, odd: tuple[int, int]) -> Tensor:
        each = kernel.expand(h.shape[1], 1, 4, 4)
        with without_autocast():
            if up:
                return nnf.conv_transpose2d(h, each, None, 2, 1, odd, h.shape[1])
            return nnf.conv2d(h, each, None, 2, 1, 1, h.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        h, kernel, ctx.up, _ = inputs
        ctx.odd = (0, 0) if ctx.up else tuple(side % 2 for side in h.shape[2:])
        ctx.save_for_backward(kernel)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (kernel,) = ctx.saved_tensors
        return _Resampled.apply(g, kernel, not ctx.up, ctx.odd), None, None, None
