"""Kernels of features: their stated errors against sums over all pairs, and everything that sums a kernel."""

import math

import pytest
import torch
from torch import Tensor

import wgflow as wg


def points(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def clouds(d: int, scale: float = 1.0) -> tuple[wg.Particles, wg.Particles]:
    """Return weighted clouds, some of whose points coincide, of a size that bandwidths of sqrt(d) scales tell apart."""
    x, y = points(40, d, 0), points(30, d, 1) + 0.7
    x[7], y[3] = x[5], x[5]
    return wg.Particles(scale * x, points(40, 1, 2)[:, 0]), wg.Particles(scale * y, points(30, 1, 3)[:, 0])


def velocity(F: wg.Functional, rho: wg.Particles) -> Tensor:
    return wg.Autograd().velocity(F, rho, None)


def rms(t: Tensor) -> float:
    return float(t.square().mean().sqrt())


KERNELS = {
    "rbf": wg.RBF(1.2),
    "matern 3/2": wg.Matern(1.2),
    "matern 5/2": wg.Matern(1.2, 2.5),
    "inverse multiquadric": wg.InverseMultiquadric(1.2),
    "inverse multiquadric 5/2": wg.InverseMultiquadric(2.0, 2.5),
    "sum": 0.5 * wg.RBF(0.4) + 3.0 * wg.Matern(2.0) + wg.InverseMultiquadric(1.0),
}
each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)


@each_kernel
def test_random_features_are_the_kernel_on_average_with_an_error_like_the_root_of_their_number(kernel):
    """Over 200 seeds the mean is right to some of its standard errors, and the error at 16 times the number is a quarter."""
    x, y = points(6, 3, 0), points(5, 3, 1)
    exact, sizes = kernel(x, y), []
    for m in (25, 400):
        errors = torch.stack([wg.RandomFourierFeatures(kernel, m, seed)(x, y) - exact for seed in range(200)])
        assert (errors.mean(0).abs() < 4.5 * errors.std(0) / math.sqrt(200)).all()
        sizes.append(rms(errors))
    assert sizes[0] / sizes[1] == pytest.approx(4, rel=0.2)


@each_kernel
def test_the_error_of_a_pair_exceeds_its_bound_no_more_often_than_stated(kernel):
    x, y, m = points(1, 2, 0), points(1, 2, 1) + 1, 100
    errors = torch.stack([wg.RandomFourierFeatures(kernel, m, seed)(x, y) - kernel(x, y) for seed in range(300)])
    for delta in (0.5, 0.1, 0.01):
        bound = float(kernel.profile(torch.zeros(()))) * math.sqrt(2 * math.log(2 / delta) / m)
        assert (errors.abs() > bound).double().mean() <= delta
        assert errors.abs().max() > bound / 10


@pytest.mark.parametrize(("d", "m", "scale"), [(1, 50, 1.0), (2, 400, 1e-4), (2, 400, 1e4), (30, 100, 1.0)])
def test_the_squared_mmd_and_its_force_are_within_their_bounds(d, m, scale):
    rho, nu = clouds(d, scale)
    sigma, seeds = scale * math.sqrt(d), 100
    F = 0.5 * wg.SquaredMMD(nu, wg.RBF(sigma))
    value, force = 2 * float(F.value(rho)), velocity(F, rho)
    approximate = [0.5 * wg.SquaredMMD(nu, wg.RandomFourierFeatures(wg.RBF(sigma), m, seed)) for seed in range(seeds)]
    values = torch.stack([2 * G.value(rho) - value for G in approximate])
    forces = torch.stack([velocity(G, rho) - force for G in approximate])
    bound = 2 * math.sqrt(value / m)
    assert bound / 20 < rms(values) < bound
    assert abs(float(values.mean())) < 4 * rms(values) / math.sqrt(seeds)
    bound = 2 * math.sqrt(d / m) / sigma
    size = float(forces.square().sum(2).mean().sqrt())
    assert bound / 20 < size < bound
    assert forces.mean(0).square().sum(1).mean().sqrt() < 2 * size / math.sqrt(seeds)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@each_kernel
def test_with_all_points_for_landmarks_nystrom_is_the_kernel(kernel, scale):
    """To the stated jitter and as much again of rounding, also where landmarks coincide and their matrix is singular."""
    rho, nu = clouds(2, scale)
    landmarks = torch.cat([rho.x, nu.x])
    fast = wg.Nystrom(kernel, landmarks)
    jitter = len(landmarks) * torch.finfo(torch.float64).eps * float(kernel.profile(torch.zeros(())))
    assert (fast(landmarks, landmarks) - kernel(landmarks, landmarks)).abs().max() < 4 * jitter
    ours, exact = (0.5 * wg.SquaredMMD(nu, k) for k in (fast, kernel))
    torch.testing.assert_close(ours.value(rho), exact.value(rho), rtol=0, atol=4 * jitter)
    force = velocity(exact, rho)
    assert (velocity(ours, rho) - force).norm() < math.sqrt(jitter) * (force.norm() + 1 / scale)


@each_kernel
def test_what_nystrom_leaves_out_is_within_its_bound(kernel):
    rho, nu = clouds(3)
    fast = wg.Nystrom(kernel, nu.x[::2])
    exact = kernel(rho.x, nu.x)

    def residual(x: Tensor) -> Tensor:
        return kernel.profile(torch.zeros(())) - fast(x, x).diagonal()

    assert residual(rho.x).min() > -1e-12
    assert residual(rho.x).max() > 1e-3
    error = exact - fast(rho.x, nu.x)
    assert (error.abs() <= (residual(rho.x)[:, None] * residual(nu.x).clamp(min=0)).sqrt() + 1e-12).all()
    left = float(wg.SquaredMMD(nu, kernel).value(rho) - wg.SquaredMMD(nu, fast).value(rho))
    bound = float((rho.w @ residual(rho.x).sqrt() + nu.w @ residual(nu.x).clamp(min=0).sqrt()).square())
    assert bound / 100 < left < bound


RHO, NU = clouds(2)
PLACES = torch.cat([RHO.x, NU.x, RHO.x / 2, NU.x / 2])
EVERYWHERE = wg.Nystrom(wg.RBF(0.8), PLACES)
RANDOM = wg.RandomFourierFeatures(wg.RBF(0.8), 100)
USERS = {
    "mmd": lambda k: wg.MMD(NU, k),
    "against another batch": lambda k: wg.SquaredMMD(NU, k).contrast(wg.Particles(RHO.x / 2)),
    "interaction": lambda k: wg.InteractionEnergy(2.0 * k + (-1.0) * wg.RBF(0.5)),
    "kale": lambda k: wg.KALE(NU, k, 0.1),
    "kale of a sum": lambda k: wg.KALE(NU, 2.0 * k + wg.RBF(0.5), 0.1),
    "at two places": lambda k: wg.InFeatures(wg.SquaredMMD(NU, k), lambda x: torch.stack([x, x / 2], 1)),
}


@pytest.mark.parametrize("name", USERS)
def test_whoever_sums_a_kernel_takes_one_of_features(name):
    """With landmarks wherever there are points it is the radial kernel."""
    ours, exact = (USERS[name](k) for k in (EVERYWHERE, wg.RBF(0.8)))
    torch.testing.assert_close(ours.value(RHO), exact.value(RHO), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(velocity(ours, RHO), velocity(exact, RHO), rtol=0, atol=1e-6)


def test_a_witness_at_other_points_and_sums_of_kernels():
    F, exact = (wg.SquaredMMD(NU, k) for k in (EVERYWHERE + 0.5 * EVERYWHERE, 1.5 * wg.RBF(0.8)))
    at = points(5, 2, 7)
    torch.testing.assert_close(F.witness_at(RHO, at), exact.witness_at(RHO, at), rtol=0, atol=1e-4)
    torch.testing.assert_close(F.value(RHO), exact.value(RHO), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "make", [wg.RandomFourierFeatures, lambda k: wg.Nystrom(k, PLACES[::3])], ids=["random", "nystrom"]
)
def test_a_rule_is_applied_to_the_particles_and_held_in_an_implicit_step(make):
    F = wg.SquaredMMD(NU, make(wg.MedianRBF()))
    fitted = wg.SquaredMMD(NU, make(wg.MedianRBF().fit(RHO.x, RHO.log_w)))
    assert torch.equal(F.value(RHO), fitted.value(RHO))
    elsewhere = wg.Particles(3 * RHO.x)
    assert torch.equal(F.fit(RHO).value(elsewhere), fitted.value(elsewhere))
    assert not torch.equal(F.value(elsewhere), fitted.value(elsewhere))


@pytest.mark.parametrize(
    "make", [wg.RandomFourierFeatures, lambda k: wg.Nystrom(k, PLACES[::3])], ids=["random", "nystrom"]
)
def test_far_from_the_origin_the_digits_of_single_precision_are_kept(make):
    """Phases were as inexact as points are far from the origin."""
    rho, nu, landmarks = (
        torch.round(64 * x) / 64 for x in (RHO.x, NU.x, PLACES[::3])
    )  # still numbers of float32 there
    found = []
    for far in (0.0, 1e5):
        k = make(wg.RBF(0.8))
        if isinstance(k, wg.Nystrom):
            k = wg.Nystrom(k.kernel, landmarks + far)
        found.append(velocity(wg.SquaredMMD((nu + far).float(), k), wg.Particles((rho + far).float())))
    assert (found[1] - found[0]).norm() < 1e-4 * found[0].norm()


@pytest.mark.parametrize(
    "make", [wg.RandomFourierFeatures, lambda k: wg.Nystrom(k, PLACES[::3])], ids=["random", "nystrom"]
)
@pytest.mark.parametrize("far", [1e4, 1e5])
def test_the_matrix_far_from_the_origin_is_that_at_the_origin(make, far):
    x = torch.round(64 * RHO.x) / 64
    k = make(wg.RBF(0.8))
    moved = wg.Nystrom(k.kernel, torch.round(64 * k.landmarks) / 64 + far) if isinstance(k, wg.Nystrom) else k
    k = wg.Nystrom(k.kernel, torch.round(64 * k.landmarks) / 64) if isinstance(k, wg.Nystrom) else k
    assert (moved((x + far).float(), (x + far).float()) - k(x.float(), x.float())).abs().max() < 1e-4


def test_a_sum_within_a_sum_is_the_sum_of_all():
    flat = 1.0 * wg.RBF(0.5) + 2.0 * wg.RBF(1.0) + 6.0 * wg.RBF(2.0)
    nested = type(flat)(((2.0, 0.5 * wg.RBF(0.5) + 1.0 * wg.RBF(1.0)), (6.0, wg.RBF(2.0))))
    ours, exact = (wg.RandomFourierFeatures(k, 200)(RHO.x, NU.x) for k in (nested, flat))
    torch.testing.assert_close(ours, exact)
    within = type(flat)(((1.0, RANDOM + wg.RBF(1.0)), (0.5, RANDOM)))
    sums = (wg.SquaredMMD(NU, k).value(RHO) for k in (within, 1.5 * RANDOM + wg.RBF(1.0)))
    torch.testing.assert_close(*sums)


@pytest.mark.parametrize(
    "make",
    [lambda k: k, wg.RandomFourierFeatures, lambda k: wg.Nystrom(k, PLACES[::3])],
    ids=["radial", "random", "nystrom"],
)
def test_sums_pass_no_part_of_a_gradient_to_a_bandwidth(make):
    leaf = torch.tensor(0.8, requires_grad=True)
    for bandwidth in (leaf, 1.0 * leaf):
        assert not wg.SquaredMMD(NU, make(wg.RBF(bandwidth))).value(RHO).requires_grad


def test_a_target_that_changes_in_place_is_seen():
    y = NU.x.clone()
    F = wg.SquaredMMD(wg.Particles(y), wg.RandomFourierFeatures(wg.RBF(1.0)))
    before = F.value(RHO)
    y += 1
    again = wg.SquaredMMD(wg.Particles(y.clone()), wg.RandomFourierFeatures(wg.RBF(1.0))).value(RHO)
    assert torch.equal(F.value(RHO), again)
    assert not torch.equal(again, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_flow_arrives_where_all_pairs_lead(dtype):
    nu, start = wg.Particles((points(300, 2, 1) * 0.5 + 1).to(dtype)), wg.Particles(points(200, 2, 0, dtype))
    exact = wg.SquaredMMD(nu, wg.RBF(1.0))
    flows = [exact, wg.SquaredMMD(nu, wg.RandomFourierFeatures(wg.RBF(1.0), 300))]
    ends = [wg.solve(0.5 * F, wg.ForwardEuler(), start, step_size=1.0, num_steps=40).measure for F in flows]
    begun, theirs, ours = (float(exact.value(p)) for p in (start, *ends))
    assert ours < 1.5 * theirs < 0.1 * begun


def test_a_run_goes_on_to_the_last_bit_and_another_seed_is_another_run(tmp_path):
    def flow(steps: int, seed: int = 3, **options):
        F = 0.5 * wg.SquaredMMD(NU, wg.RandomFourierFeatures(wg.RBF(1.0), 50, seed), batch=10)
        return wg.solve(F, wg.ForwardEuler(), RHO, step_size=0.5, num_steps=steps, **options).measure.x

    whole, folder = flow(6), wg.Checkpoint(tmp_path / "run")
    flow(3, checkpoint=folder)
    assert torch.equal(flow(6, checkpoint=folder), whole)
    with pytest.raises(wg.CheckpointError, match="seed"):
        flow(6, 4, checkpoint=folder)


NEED_A_POSITIVE_DEFINITE_ONE = {
    "random": wg.RandomFourierFeatures,
    "nystrom": lambda k: wg.Nystrom(k, PLACES),
    "mean shift": wg.MeanShift,
}


@pytest.mark.parametrize("make", NEED_A_POSITIVE_DEFINITE_ONE.values(), ids=NEED_A_POSITIVE_DEFINITE_ONE)
@pytest.mark.parametrize(
    "kernel", [wg.Riesz(), wg.PowerLaw(2.0), wg.RBF(1.0) - wg.RBF(2.0), wg.RBF(1.0) + wg.Riesz()], ids=str
)
def test_kernels_that_are_not_positive_definite_are_refused(make, kernel):
    with pytest.raises(wg.BadInput, match="expected a positive definite kernel"):
        make(kernel)


@pytest.mark.parametrize("make", [wg.Stein, lambda k: wg.SquaredKSD(wg.StandardNormal(2), k)], ids=["stein", "ksd"])
@pytest.mark.parametrize(
    "kernel", [wg.Riesz(), wg.PowerLaw(2.0), wg.Logarithmic(), -1.0 * wg.RBF(1.0), wg.RBF(1.0) - wg.RBF(2.0)], ids=str
)
def test_kernels_that_are_not_positive_where_points_coincide_are_refused(make, kernel):
    with pytest.raises(wg.BadInput, match="where points coincide"):
        make(kernel)


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (wg.Laplace(1.0), "no random frequencies of finite variance"),
        (wg.InverseMultiquadric(1.0, 0.7), "its power must be 0.5, 1"),
    ],
)
def test_kernels_without_random_frequencies_are_refused(kernel, why):
    with pytest.raises(wg.Unsupported, match=why):
        wg.RandomFourierFeatures(kernel)


@pytest.mark.parametrize(
    "z", [PLACES.long(), PLACES[:0], PLACES * math.nan, PLACES[:, 0]], ids=["int", "none", "nan", "1d"]
)
def test_landmarks_that_are_no_points_are_refused(z):
    with pytest.raises(wg.BadInput, match="landmarks must be finite"):
        wg.Nystrom(wg.RBF(1.0), z)


@pytest.mark.parametrize(
    "make",
    [
        wg.Stein,
        wg.KDEScore,
        wg.KernelDensity,
        wg.MeanShift,
        wg.Nystrom,
        lambda kernel: wg.SquaredKSD(wg.StandardNormal(2), kernel),
        lambda kernel: wg.KernelCritic(torch.nn.Identity(), kernel, (2,)),
    ],
)
def test_what_needs_a_distance_refuses_features(make):
    for k in (RANDOM, RANDOM + wg.RBF(1.0)):
        with pytest.raises(wg.BadInput, match=r"expected a (Kernel that|kernel, or)"):
            make(**{"kernel": k} | ({"landmarks": PLACES} if make is wg.Nystrom else {}))


def test_what_it_cannot_do_is_refused():
    with pytest.raises(wg.Unsupported, match="for sums over pairs: SquaredMMD"):
        RANDOM.profile(torch.ones(1))
    with pytest.raises(wg.BadInput, match="needs a kernel of the distance"):
        wg.SquaredMMD(NU, RANDOM + wg.RBF(1.0), pairs="distinct")
    with pytest.raises(wg.BadInput, match="agree in the shape of a point"):
        wg.SquaredMMD(NU, wg.Nystrom(wg.RBF(1.0), PLACES[:, :1])).value(RHO)
    with pytest.raises(wg.BadInput, match="agree in the shape of a point"):
        wg.SquaredMMD(wg.Particles(points(4, 3, 0)), RANDOM).value(RHO)
    F, elsewhere = wg.SquaredMMD(NU, RANDOM), points(4, 3, 0)
    for wrong in (elsewhere, RHO.x.float()):
        with pytest.raises(wg.BadInput, match="agree in the shape of a point"):
            F.witness_at(RHO, wrong)
        with pytest.raises(wg.BadInput, match="agree in the shape of a point"):
            F.contrast(wg.Particles(wrong)).value(RHO)
        with pytest.raises(wg.BadInput, match="agree in the shape of a point"):
            RANDOM(RHO.x, wrong)
    with pytest.raises(wg.Unsupported, match="has no gradient"):
        RANDOM(RHO.x.clone().requires_grad_(), RHO.x)
