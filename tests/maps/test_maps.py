"""Transport maps: identity at the start, log-determinants against autograd, inverses, stochastic estimates, bad input."""

import math

import pytest
import torch
from _exact import rng
from torch import nn

from wgflow import BadInput, CheckpointError, Unsupported
from wgflow.core.rng import seeded
from wgflow.maps import Affine, ICNNGradient, NeuralODE, Residual, TransportMap
from wgflow.storage.state import load_state

MAPS = {
    "affine": lambda d: Affine(d),
    "residual": lambda d: Residual(d, net=mlp(d)),
    "series": lambda d: Residual(d, net=mlp(d), logdet="series"),
    "icnn": lambda d: ICNNGradient(d, width=12, depth=3),
    "one layer": lambda d: ICNNGradient(d, width=12, depth=1),
    "stochastic": lambda d: ICNNGradient(d, width=12, logdet="stochastic", lanczos=4),
    "ode": lambda d: NeuralODE(d, net=mlp(d), method="dopri5", rtol=1e-11, atol=1e-11),
    "hutchinson": lambda d: NeuralODE(d, net=mlp(d), trace="hutchinson", method="dopri5", rtol=1e-11, atol=1e-11),
}


def mlp(d):
    return nn.Sequential(nn.Linear(d, 8), nn.Tanh(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, d))


def make(name, d, away=0.0):
    """A map in double precision; ``away`` moves every weight off the identity."""
    T = seeded(lambda: MAPS[name](d), rng(d)).double()
    with torch.no_grad():
        for p in T.parameters():
            p.add_(away * torch.randn(p.shape, generator=rng(p.numel()), dtype=p.dtype))
        if isinstance(T, ICNNGradient):
            T.out.add_(away)
    T.project()
    return T


def points(d, n=9, seed=0):
    return torch.randn(n, d, generator=rng(seed), dtype=torch.float64)


def jacobians(T, x):
    """Row by row with reverse-mode autograd: nothing shared with the maps' own code."""
    x = x.clone().requires_grad_(True)
    y = T(x)
    rows = [torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0] for i in range(x.shape[1])]
    return torch.stack(rows, 1)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("name", MAPS)
def test_starts_at_the_identity(name, d):
    T, x = make(name, d), points(d)
    y, logdet = T.with_logdet(x)
    torch.testing.assert_close(T(x), x, rtol=0, atol=1e-14)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-14)
    torch.testing.assert_close(logdet, torch.zeros(9, dtype=x.dtype), rtol=0, atol=1e-13)
    assert all(p.requires_grad for p in T.parameters())


@pytest.mark.parametrize("name", MAPS)
def test_the_first_gradient_leaves_the_identity(name):
    """A parameter that starts at a bound (an ICNN's output weights at 0) must still feel the objective."""
    T, x = make(name, 2), points(2, 50)
    y, logdet = T.with_logdet(x)
    (y.square().sum(1).mean() + y[:, 0].pow(4).mean() - logdet.mean()).backward()
    last = T.out if isinstance(T, ICNNGradient) else T.shift if isinstance(T, Affine) else T.net[-1].weight
    assert bool((last.grad != 0).all())


@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("name", MAPS)
def test_logdet_is_that_of_the_jacobian(name, d):
    T, x = make(name, d, 0.25), points(d)
    y, logdet = T.with_logdet(x)
    assert logdet.shape == (9,)
    expected = torch.linalg.slogdet(jacobians(T, x))[1]
    assert float(expected.abs().max()) > 0.05, "the map is not trivial"
    torch.testing.assert_close(logdet, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(y, T(x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("name", MAPS)
def test_inverse_undoes_the_map(name, d):
    T, x = make(name, d, 0.15), points(d)
    y, logdet = T.with_logdet(x)
    back, again = T.inverse_with_logdet(y.detach())
    torch.testing.assert_close(back, x, rtol=0, atol=1e-8)
    torch.testing.assert_close(T.inverse(y.detach()), x, rtol=0, atol=1e-8)
    torch.testing.assert_close(again, logdet, rtol=0, atol=1e-8)
    assert not back.requires_grad


@pytest.mark.parametrize("name", ["affine", "residual", "icnn", "ode"])
def test_inverse_in_single_precision(name):
    T, x = make(name, 3, 0.15).float(), points(3).float()
    if isinstance(T, NeuralODE):
        T.rtol = T.atol = 1e-6
    torch.testing.assert_close(T.inverse(T(x).detach()), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_logdet_is_differentiable_in_weights_and_points(name):
    """Central differences along one random direction; with step e their error is e² times a third derivative."""
    T, x = make(name, 2, 0.2), points(2, 4).requires_grad_(True)
    held = [*T.parameters(), x]
    if isinstance(T, ICNNGradient):  # a kink: the direction stays on the side where a zero weight counts
        T.out.data.add_(0.3)
        [w.data.add_(0.1) for w in T.hidden]
    way = [torch.randn(p.shape, generator=rng(7 + i), dtype=p.dtype) for i, p in enumerate(held)]

    def value(e):
        for p, v in zip(held, way, strict=True):
            p.data.add_(e * v)
        out = T.with_logdet(x)[1].mean()
        for p, v in zip(held, way, strict=True):
            p.data.sub_(e * v)
        return out

    grads = torch.autograd.grad(value(0.0), held, allow_unused=True)
    slope = sum((g * v).sum() for g, v in zip(grads, way, strict=True) if g is not None)
    e = 1e-4
    assert float(slope.detach()) == pytest.approx(float((value(e) - value(-e)).detach() / (2 * e)), rel=1e-5, abs=1e-7)


def test_the_icnn_is_the_gradient_of_a_convex_potential():
    T, x = make("icnn", 3, 0.3), points(3, 20).requires_grad_(True)
    (slope,) = torch.autograd.grad(T.potential(x).sum(), x)
    torch.testing.assert_close(slope, T(x), rtol=0, atol=1e-12)
    J = jacobians(T, x.detach())
    torch.testing.assert_close(J, J.transpose(1, 2), rtol=0, atol=1e-12)
    assert float(torch.linalg.eigvalsh(J).min()) >= T.floor
    torch.testing.assert_close(jacobians(make("affine", 3, 0.3), x.detach())[0], _affine_matrix(3), rtol=0, atol=1e-12)


def _affine_matrix(d):
    T = make("affine", d, 0.3)
    return (T.factor @ T.factor.T).detach()


# --- estimates while training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "d"), [("stochastic", 4), ("hutchinson", 3)])
def test_a_stochastic_logdet_is_unbiased_with_its_gradient(name, d):
    """Mean of many probes at one point against the exact value: within four standard errors."""
    T = make(name, d, 0.2)
    if isinstance(T, NeuralODE):
        T.method, T.steps = "rk4", 3
    n = 2000
    x = points(d, 1)
    _, exact = T.with_logdet(x)
    weight = T.root if name == "stochastic" else T.net[0].weight
    (slope,) = torch.autograd.grad(exact.sum(), weight)
    _, estimates = T.with_logdet(x.expand(n, d), rng(1))
    error = estimates.detach().mean() - exact.detach()
    assert abs(float(error)) <= 4 * float(estimates.detach().std()) / n**0.5
    assert float(estimates.detach().std()) > 1e-3, "it is an estimate"
    blocks = [torch.autograd.grad(e.mean(), weight, retain_graph=True)[0] for e in estimates.split(n // 20)]
    spread = torch.stack(blocks)
    deviation = (spread.mean(0) - slope).abs() / (spread.std(0) / 20**0.5 + 1e-9)
    assert float(deviation.median()) < 2  # a t-statistic with 19 degrees of freedom; its median is 0.69


def test_the_krylov_estimate_is_exact_for_two_distinct_curvatures():
    """Diagonal quadratic with eigenvalues 1 and 4: signs span a Krylov space of dimension two, Rademacher quadrature is exact."""
    T = ICNNGradient(6, width=3, logdet="stochastic", lanczos=5).double()
    with torch.no_grad():
        T.root.copy_(torch.diag(torch.tensor([1.0, 1, 1, 2, 2, 2])))
    x = points(6, 5)
    estimate, exact = T.with_logdet(x, rng(0))[1], T.with_logdet(x)[1]
    torch.testing.assert_close(estimate, exact, rtol=0, atol=1e-12)
    slopes = [torch.autograd.grad(v.sum(), T.root)[0].diagonal() for v in (estimate, exact)]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-10)


def test_the_series_converges_to_the_logdet():
    """A contraction c < 1 leaves an error of at most d c^(terms+1) / ((terms+1) (1-c)), each probe; linear u: exact trace known."""
    u = nn.Linear(2, 2).double()
    T = Residual(2, net=u, logdet="series", terms=30)
    with torch.no_grad():
        u.weight.copy_(torch.tensor([[0.4, 0.0], [0.0, -0.3]]))  # diagonal, so that every sign vector gives the trace
    x = points(2, 5)
    torch.testing.assert_close(T.with_logdet(x, rng(0))[1], T.with_logdet(x)[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["series", "hutchinson", "stochastic"])
def test_probes_come_from_the_generator_alone(name):
    T, x = make(name, 3, 0.2), points(3)
    one, two, other = (T.with_logdet(x, rng(seed))[1] for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_estimates_work_without_gradient():
    for name in ("series", "hutchinson", "stochastic"):
        with torch.no_grad():
            assert make(name, 3, 0.2).with_logdet(points(3), rng(0))[1].shape == (9,)


# --- shapes and bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["affine", "icnn"])
def test_points_of_any_shape(name):
    kinds = {"affine": Affine, "icnn": ICNNGradient}
    T = kinds[name](2, 3)
    x = torch.randn(5, 2, 3, generator=rng())
    y, logdet = T.with_logdet(x)
    assert (y.shape, logdet.shape, T.inverse(y.detach()).shape) == (x.shape, (5,), x.shape)
    with pytest.raises(BadInput, match=r"maps points of shape \(2, 3\), got \(6,\)"):
        T(x.flatten(1))


def test_images_through_networks():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))
    for T in (Residual(1, 3, 3, net=net), NeuralODE(1, 3, 3, net=net)):
        x = torch.randn(4, 1, 3, 3, generator=rng())
        nn.init.normal_(net[-1].weight, std=0.05)
        y, logdet = T.with_logdet(x)
        torch.testing.assert_close(T.inverse(y.detach()), x, rtol=0, atol=1e-4)
        assert (y.shape, logdet.shape) == (x.shape, (4,))


def test_maps_say_what_they_cannot_do():
    class Bare(TransportMap):
        def forward(self, x):
            return x

    x = points(2)
    for T in (Bare(2), Residual(2, net=mlp(2), logdet=None)):
        assert not T.has_logdet
        assert not T.invertible
        with pytest.raises(Unsupported, match=r"Use ICNNGradient"):
            T.with_logdet(x)
        with pytest.raises(Unsupported, match=r"[Uu]se "):
            T.inverse(x)


def test_a_map_that_folds_is_not_inverted_silently():
    u = nn.Linear(2, 2).double()
    T = Residual(2, net=u)
    with torch.no_grad():
        u.weight.copy_(-torch.eye(2))  # T(x) = b: constant
        u.bias.fill_(1.0)
    with pytest.raises(Unsupported, match="could not be inverted at 9 of 9 points"):
        T.inverse(points(2))


def test_a_network_to_another_space_has_no_logdet():
    T = Residual(2, net=nn.Linear(2, 3))
    with pytest.raises(BadInput, match=r"must be square"):
        T.with_logdet(torch.zeros(4, 2))
    with pytest.raises(BadInput, match=r"must be square\); it returned \(3,\)"):
        T(torch.zeros(4, 2))


@pytest.mark.parametrize("out", [1, 3])  # one output would broadcast
@pytest.mark.parametrize(
    "use",
    [
        lambda u, x: NeuralODE(2, net=u)(x),
        lambda u, x: NeuralODE(2, net=u).inverse(x),
        lambda u, x: NeuralODE(2, net=u).with_logdet(x),
        lambda u, x: NeuralODE(2, net=u, trace="hutchinson").with_logdet(x, rng()),
        lambda u, x: Residual(2, net=u)(x),
        lambda u, x: Residual(2, net=u, logdet="series").with_logdet(x, rng()),
    ],
)
def test_networks_to_another_space_are_refused_wherever_they_are_called(use, out):
    with pytest.raises(BadInput, match=rf"from points \(2,\) to the same shape .* returned \({out},\)"):
        use(nn.Linear(2, out), torch.zeros(4, 2))


@pytest.mark.parametrize("name", ["affine", "icnn", "residual", "ode"])
@pytest.mark.parametrize("do", ["__call__", "with_logdet", "inverse"])
def test_points_must_be_those_of_the_map(name, do):
    T = make(name, 2)
    for x, said in (
        (points(3), r"points of shape \(2,\), got \(3,\)"),
        (points(2).float(), r"weights of torch.float64, got points of torch.float32: .* x.to\(torch.float64\)"),
        (torch.ones(4, 2, dtype=torch.long), "torch.int64"),
    ):
        with pytest.raises(BadInput, match=said):
            getattr(T, do)(x)


@pytest.mark.parametrize("name", ["affine", "icnn", "residual", "ode"])
def test_no_inverse_is_made_up(name):
    T, x = make(name, 2, 0.1), points(2)
    x[0, 1] = torch.nan
    T.method = "rk4"  # an adaptive one gives up, also with an error
    with pytest.raises(Unsupported, match="could not be inverted at 1 of 9 points"):
        T.inverse(x)
    T = Affine(2)
    T.load_state_dict(T.state_dict() | {"log_diagonal": torch.tensor([-200.0, 0.0])})  # underflows
    with pytest.raises(Unsupported, match="singular to working precision"):
        T.inverse(torch.ones(1, 2))


def test_a_field_that_explodes_is_given_up_with_advice():
    class Cube(nn.Linear):
        def forward(self, x):
            return 100 * x**3 + super().forward(x)

    with pytest.raises(Unsupported, match=r"gave up on a NeuralODE.*rk4"):
        NeuralODE(2, net=Cube(2, 2), method="dopri5")(torch.ones(1, 2))


@pytest.mark.parametrize("name", ["affine", "icnn", "residual", "ode"])
def test_weights_that_are_not_finite_are_not_loaded(name):
    T = make(name, 2)
    saved = {key: t.clone() for key, t in T.state_dict().items()}
    key = next(iter(saved))
    saved[key].view(-1)[0] = torch.nan
    with pytest.raises(BadInput, match=f"nan or infinite: {key}"):
        T.load_state_dict(saved)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Affine(),
        lambda: Affine(0),
        lambda: ICNNGradient(2, width=0),
        lambda: ICNNGradient(2, floor=0.0),
        lambda: ICNNGradient(2, floor=1.0),
        lambda: ICNNGradient(2, logdet="exakt"),
        lambda: Residual(2, net=nn.Linear(2, 2), logdet="slq"),
        lambda: Residual(2, net=nn.Identity()),
        lambda: NeuralODE(2, net=nn.Linear(2, 2), trace="slq"),
        lambda: NeuralODE(2, net=nn.Linear(2, 2), steps=0),
        lambda: NeuralODE(2, net=nn.Linear(2, 2), method="rk5")(torch.zeros(1, 2)),
        lambda: NeuralODE(2, net=nn.Linear(2, 2), method="dopri5", rtol=-1.0),
        lambda: Affine((2,)),
        lambda: Affine(2.0),
        lambda: ICNNGradient(2, floor=math.nan),
        lambda: ICNNGradient(2, scale=math.inf),
        lambda: Residual(2, net=torch.sin),
        lambda: Residual(2, net=nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))),
    ],
)
def test_bad_settings(wrong):
    with pytest.raises(BadInput):
        wrong()


def test_a_checkpoint_that_breaks_convexity_is_refused():
    T = make("icnn", 2, 0.2)
    saved = {name: t.clone() for name, t in T.state_dict().items()}
    saved["hidden.0"][0, 0] = -0.5
    with pytest.raises(BadInput, match=r"non-convex: the least that has to be nonnegative is -0\.5"):
        T.load_state_dict(saved)
    with pytest.raises(CheckpointError, match="non-convex"):
        load_state(nn.Sequential(make("icnn", 2)), {f"0.{name}": t for name, t in saved.items()})
    saved["hidden.0"][0, 0] = torch.nan
    with pytest.raises(BadInput, match="nan"):
        T.load_state_dict(saved)


def test_projection_brings_weights_back():
    T = make("icnn", 2)
    with torch.no_grad():
        T.out.fill_(-1.0)
    x = points(2)
    before = T(x)
    T.project()
    assert float(T.out.detach().min()) == 0.0
    assert torch.equal(T(x), before), "negative weights did not count"
