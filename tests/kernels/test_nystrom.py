"""What Nyström's features keep: their landmarks as they were given, and the root of their matrix."""

import pytest
import torch
from torch import Tensor

import wgflow as wg


def points(n: int, seed: int) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


RHO, NU = wg.Particles(points(40, 0)), wg.Particles(points(30, 1) + 0.7)
PLACES = torch.cat([RHO.x, NU.x])


def test_landmarks_in_double_precision_are_rounded_once_for_points_in_single_precision():
    """Their own matrix was that of other landmarks than those that meet the points; what is left out was negative."""
    x, y, z = ((p + 1e4).float() for p in (RHO.x, NU.x, PLACES[::3]))
    given = wg.Nystrom(wg.RBF(1.0), PLACES[::3] + 1e4)
    exact = wg.SquaredMMD(wg.Particles(y), wg.RBF(1.0)).value(wg.Particles(x))
    ours, rounded = (
        wg.SquaredMMD(wg.Particles(y), k).value(wg.Particles(x)) for k in (given, wg.Nystrom(wg.RBF(1.0), z))
    )
    assert torch.equal(ours, rounded)
    assert ours < exact + 1e-4


def test_landmarks_are_copied_and_get_no_gradients():
    z = PLACES[::3].clone()
    k = wg.Nystrom(wg.RBF(1.0), z)
    before = wg.SquaredMMD(NU, k).value(RHO)
    z += 1
    assert torch.equal(wg.SquaredMMD(NU, k).value(RHO), before)
    with pytest.raises(wg.BadInput, match="get no gradients"):
        wg.Nystrom(wg.RBF(1.0), z.requires_grad_())


def test_the_kernel_is_copied():
    """The root rests on a bandwidth that may be written to."""
    bandwidth = torch.tensor(1.0)
    k = wg.Nystrom(wg.RBF(2.0) + wg.RBF(bandwidth), PLACES[::3])
    before = k(RHO.x, NU.x)
    bandwidth.fill_(0.3)
    assert torch.equal(k(RHO.x, NU.x), before)


def test_what_is_kept_in_inference_mode_passes_gradients_later():
    with torch.inference_mode():
        F = wg.SquaredMMD(NU, wg.Nystrom(wg.RBF(1.0), PLACES[::3].clone()))
        F.value(RHO)
    again = wg.SquaredMMD(NU, wg.Nystrom(wg.RBF(1.0), PLACES[::3]))
    assert torch.equal(*(wg.Autograd().velocity(G, RHO, None) for G in (F, again)))


def test_a_flow_with_several_nystrom_kernels_decomposes_each_matrix_once(monkeypatch):
    found, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda K: found.append(len(K)) or eigh(K))
    a, b, c = (wg.Nystrom(wg.RBF(0.8), PLACES[i : i + n]) for i, n in ((0, 10), (20, 11), (40, 12)))
    F = wg.SquaredMMD(NU, a + b) + wg.SquaredMMD(RHO, c) + wg.InteractionEnergy(a)
    wg.solve(F, wg.ForwardEuler(), RHO, step_size=0.1, num_steps=3)
    assert sorted(found) == [10, 11, 12]


@pytest.mark.parametrize("make", [lambda k: k, wg.RandomFourierFeatures, lambda k: wg.Nystrom(k, torch.ones(3, 20))])
def test_dense_matrices_are_those_of_single_precision_under_autocast(make):
    x, k = torch.randn(30, 20, generator=torch.Generator().manual_seed(0)), make(wg.RBF(5.0))
    exact = k(x, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(k(x, x), exact)
