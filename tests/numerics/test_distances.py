"""Squared distances in single precision, against double: each is right to its own size, whatever else is in the cloud."""

import threading

import pytest
import torch
from _exact import rng

from wgflow import (
    RBF,
    Autograd,
    Blob,
    EnergyDistance,
    InteractionEnergy,
    KernelDensity,
    Logarithmic,
    Particles,
    ProximalScore,
    Riesz,
    SquaredKSD,
    SquaredMMD,
    Stein,
    Unnormalised,
)
from wgflow.functionals import KL
from wgflow.kernels import InverseMultiquadric, Laplace, PowerLaw
from wgflow.kernels.stein_blocks import stein_pairs
from wgflow.kernels.sums import kernel_energy
from wgflow.measures import StandardNormal
from wgflow.numerics import distances
from wgflow.numerics.distances import Distances

N = 60
ALL = slice(0, N)
EPS = torch.finfo(torch.float32).eps


def normal(d, seed=0):
    return torch.randn(N, d, generator=rng(seed))


def far_particle(d, seed=0):
    x = normal(d, seed)
    x[N // 2] = 1e6
    return x


def clusters(d, seed=0):
    x = 1e-3 * normal(d, seed)
    x[::2] += 100
    return x


def units(d, seed=0):
    x = normal(d, seed)
    x[:, 0] *= 1e6
    return x


CLOUDS = {
    "normal": normal,
    "cauchy": lambda d, seed=0: normal(d, seed) / torch.randn(N, 1, generator=rng(50 + seed)).abs(),
    "units of 1 and 1e6": units,
    "far particle": far_particle,
    "cluster far from the origin": lambda d, seed=0: 1e-2 * normal(d, seed) + 1e3,
    "two far clusters": clusters,
    "every point twice": lambda d, seed=0: normal(d, seed)[: N // 2].repeat(2, 1),
    "1e20": lambda d, seed=0: 1e20 * normal(d, seed),
    "1e-30": lambda d, seed=0: 1e-30 * normal(d, seed),
}
each_cloud = pytest.mark.parametrize("name", CLOUDS)


def exact(x, y):
    return (x.double()[:, None] - y.double()).square().sum(2)


@each_cloud
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("d", [1, 2, 3, 5, 16, 17, 64])
def test_every_distance_is_right_to_its_own_size(name, smooth, d):
    x = CLOUDS[name](d)
    s, e = Distances(x, x, smooth).block(ALL, ALL).double(), exact(x, x)
    assert torch.equal(s == 0, e == 0), "0 for coincident points, and for no others"
    assert not bool(s.diagonal().any())
    part = min(distances.NEAR_SMOOTH if smooth else distances.NEAR, 2 ** (-30 / d))
    # A product of d + 2 terms of at most |x|² each; below `part` of |x|² nothing cancels.
    allowed = 4 * EPS if d <= (distances.DIRECT_SMOOTH if smooth else distances.DIRECT) else 6 * EPS / part
    assert float(((s - e).abs() / e)[e > 0].max()) < allowed


@pytest.mark.parametrize("d", [5, 64])
def test_the_very_nearest_points_are_right_to_a_few_units_in_the_last_place(d):
    """Distances of 1e-6 at 1 from the centre: even products in double precision have lost half of their digits there."""
    x = normal(d)
    y = x * (1 + 2.0**-20)
    for smooth in (True, False):
        s = Distances(x, y, smooth).block(ALL, ALL).diagonal().double()
        torch.testing.assert_close(s, exact(x, y).diagonal(), rtol=4 * EPS, atol=0)


@pytest.mark.parametrize("d", [3, 20])
def test_double_precision_keeps_its_own(d):
    x = clusters(d).double() + 1e-9 * normal(d, 1).double()
    s = Distances(x, x, False).block(ALL, ALL)
    wide = x.numpy().astype("longdouble")
    e = torch.from_numpy(((wide[:, None] - wide) ** 2).sum(2).astype(float))
    torch.testing.assert_close(s, e, rtol=1e-13, atol=0)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("d", [2, 6])
def test_what_a_gpu_does_reads_nothing_and_keeps_coincident_points_at_0(monkeypatch, smooth, d):
    monkeypatch.setattr(distances, "readable", lambda t: False)
    for name in ("normal", "cauchy", "two far clusters", "every point twice"):
        x = CLOUDS[name](d)
        s, e = Distances(x, x, smooth).block(ALL, ALL).double(), exact(x, x)
        assert not bool(s.diagonal().any())
        r2 = (x - x.median(0).values).double().square().sum(1)
        lost = 8 * EPS if smooth else 64 * torch.finfo(torch.float64).eps
        assert bool(((s - e).abs() <= 4 * EPS * e + lost * (r2[:, None] + r2)).all())
        if not smooth:
            assert torch.equal(s == 0, e == 0)


KERNELS = {
    "energy": Riesz(),
    "rbf": RBF(1.0),
    "narrow rbf": RBF(0.05),
    "laplace": Laplace(1.0),
    "imq": InverseMultiquadric(0.5),
    "log": Logarithmic(),
    "coulomb": PowerLaw(-1.0),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["cauchy", "units of 1 and 1e6", "cluster far from the origin", "two far clusters"])
@pytest.mark.parametrize("d", [2, 5, 20])
def test_forces_of_single_precision(kernel, name, d):
    x, slopes, w = CLOUDS[name](d), [], torch.full((N,), 1 / N)
    for t in (torch.float32, torch.float64):
        p = x.to(t).requires_grad_(True)
        slopes.append(torch.autograd.grad(kernel_energy(KERNELS[kernel], p, w.to(t)), p)[0].double())
    # The least number that exp returns is 1e-38: times 1e6 / bandwidth² it is a force.
    assert float((slopes[0] - slopes[1]).norm()) < 1e-4 * float(slopes[1].norm()) + 1e-28


@pytest.mark.parametrize("d", [2, 5, 20])
@pytest.mark.parametrize("name", ["normal", "cauchy", "units of 1 and 1e6", "two far clusters", "1e20", "1e-30"])
def test_the_energy_distance_of_single_precision(name, d):
    (v, value), (v64, value64) = (
        (Autograd().velocity(F, p, None), F.value(p))
        for t in (torch.float32, torch.float64)
        for p, F in [(Particles(CLOUDS[name](d).to(t)), EnergyDistance(Particles(1.5 * CLOUDS[name](d, 1).to(t))))]
    )
    assert v.dtype == value.dtype == torch.float32
    assert float((v.double() - v64).norm() / v64.norm()) < 1e-5
    assert float(value) == pytest.approx(float(value64), rel=1e-4)


@pytest.mark.parametrize("d", [3, 17, 64])
def test_one_far_point_of_a_stack_changes_no_other_distance(d):
    x, y = torch.randn(2, 30, d, generator=rng()), torch.randn(2, 30, d, generator=rng(1))
    y[:, 3] += 1e4
    found, exact = distances.stacked_squares(x, y), (x.double()[:, :, None] - y.double()[:, None]).square().sum(3)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("d", [2, 5])
def test_one_far_particle_moves_no_other(d):
    """Clouds that share it: their distance is what it is without it, times a factor."""
    x, y = far_particle(d), far_particle(d, 1)
    keep = torch.arange(N) != N // 2
    near = EnergyDistance(Particles(y[keep].double())).value(Particles(x[keep].double()))
    value = EnergyDistance(Particles(y)).value(Particles(x))
    # Of terms of 1e6 / N, with rounding errors of eps each.
    assert float(value) == pytest.approx(float(near) * ((N - 1) / N) ** 2, abs=4e6 * EPS / N)
    wide = Autograd().velocity(EnergyDistance(Particles(y.double())), Particles(x.double()), None)
    v = Autograd().velocity(EnergyDistance(Particles(y)), Particles(x), None)
    assert float((v.double() - wide)[keep].norm() / wide[keep].norm()) < 1e-4


@pytest.mark.parametrize("estimator", [Stein(RBF(0.01)), Blob(KernelDensity(RBF(0.01)))], ids=["stein", "blob"])
@pytest.mark.parametrize("d", [2, 5])
def test_narrow_kernels_in_a_cluster_far_from_the_centre(estimator, d):
    """The mean and the median are with the others; the particles of the cluster push each other apart all the same."""
    x = torch.cat([normal(d), 1e-2 * normal(d, 1)[: N // 3] + 30])
    v, v64 = (
        estimator.velocity(KL(StandardNormal(d)), Particles(x.to(t)), None) for t in (torch.float32, torch.float64)
    )
    repulsion, repulsion64 = v.double() + x, v64 + x
    if isinstance(estimator, Blob):
        assert float((repulsion - repulsion64)[N:].norm() / repulsion64[N:].norm()) < 1e-4
    assert float((v.double() - v64)[N:].norm() / v64[N:].norm()) < 1e-4


@pytest.mark.parametrize("kernel", [RBF(1.0), RBF(0.05), InverseMultiquadric(0.5)], ids=["rbf", "narrow", "imq"])
@pytest.mark.parametrize("name", ["normal", "cauchy", "far particle", "two far clusters", "every point twice"])
@pytest.mark.parametrize("d", [2, 5, 20])
def test_the_stein_discrepancy_of_single_precision(kernel, name, d):
    found = []
    for t in (torch.float32, torch.float64):
        F, rho = (
            SquaredKSD(Unnormalised(lambda x: -0.5 * x.square().sum(1), d), kernel),
            Particles(CLOUDS[name](d).to(t)),
        )
        found.append((float(F.value(rho)), Autograd().velocity(F, rho, None).double()))
    (value, v), (value64, v64) = found
    assert value == pytest.approx(value64, rel=1e-5)
    assert float((v - v64).norm() / v64.norm()) < 1e-5


def test_stein_pairs_are_differences_with_their_derivatives():
    """In double precision against differences; the blocks of one cloud with itself share its memory."""
    x, s, y, t = (torch.randn(n, 3, generator=rng(k), dtype=torch.float64) for k, n in enumerate((7, 7, 5, 5)))
    x[1] = x[0] + 1e-7
    for others in ((y, t), (x, s)):
        given = [u.clone().requires_grad_(True) for u in (x, s)]
        given += given if others[0] is x else [u.clone().requires_grad_(True) for u in others]
        p, u, q, v = given
        difference = p[:, None] - q
        dense = difference.square().sum(2), (difference * (u[:, None] - v)).sum(2)
        mine = stein_pairs(p, u, q, v)
        weight = torch.randn(2, len(p), len(q), generator=rng(9), dtype=torch.float64)
        wanted = given[: 2 if others[0] is x else 4]
        ours = torch.autograd.grad((weight[0] * mine[0] + weight[1] * mine[1]).sum(), wanted)
        theirs = torch.autograd.grad((weight[0] * dense[0] + weight[1] * dense[1]).sum(), wanted)
        for a, b in zip((*mine, *ours), (*dense, *theirs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["cauchy", "two far clusters", "cluster far from the origin", "1e20"])
@pytest.mark.parametrize("d", [2, 20])
def test_proximal_scores_of_single_precision(name, d):
    x = CLOUDS[name](d)
    time = float(Distances(x.double(), x.double(), False).block(ALL, ALL).median()) / 40
    estimator = ProximalScore(time, log_normaliser=lambda x: 0 * x[:, 0])
    F = KL(Unnormalised(lambda x: 0 * x[:, 0], d))
    v, v64 = (
        estimator.velocity(F, Particles(x.to(t)), estimator.init(F, rng())) for t in (torch.float32, torch.float64)
    )
    assert float((v.double() - v64).norm() / v64.norm()) < 1e-5


def test_an_interaction_of_coincident_and_of_near_points():
    x = torch.tensor([[5.0, 0, 0, 0, 0], [5.0, 0, 0, 0, 0], [5.0 + 2.0**-20, 0, 0, 0, 0], [-5.0, 0, 0, 0, 0]])
    F = InteractionEnergy(Logarithmic())
    v, v64 = (Autograd().velocity(F, Particles(x.to(t)), None) for t in (torch.float32, torch.float64))
    torch.testing.assert_close(v.double(), v64, rtol=1e-5, atol=0)
    assert torch.equal(v[0], v[1])


def test_squared_mmd_of_a_cloud_with_itself_is_0():
    for name, make in CLOUDS.items():
        x = make(5)
        assert float(SquaredMMD(Particles(x.clone()), RBF(1.0)).value(Particles(x))) == pytest.approx(0, abs=1e-7), name


@pytest.mark.parametrize("d", [1, 2, 5, 20])
def test_a_thread_of_its_own_with_one_point(d):
    """Blocks live in places of the thread that asked for them; the first of a thread may be a column or a single entry."""
    x, found = normal(d), []

    def ask():
        with torch.inference_mode():
            Distances(x, x, False).block(ALL, ALL)
        found.extend(Distances(x[:n], x[:m], s).block(slice(0, n), slice(0, m)).clone() for n, m, s in SHAPES)

    SHAPES = [(N, 1, False), (1, N, True), (1, 1, True), (N, N, False)]
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    for s, (n, m, _) in zip(found, SHAPES, strict=True):
        torch.testing.assert_close(s.double(), exact(x[:n], x[:m]), rtol=1e-4, atol=0)
