"""Fréchet and kernel distances against closed forms, feature networks against published numbers."""

import io
import pickle
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from wgflow import BadInput, DataNotFound
from wgflow.generative.data import ImageData, ImageSet, to_unit
from wgflow.generative.metrics import inception as inception_module
from wgflow.generative.metrics.cifar_resnet import CifarResNetFeatures
from wgflow.generative.metrics.features import ModuleFeatures, RandomConvFeatures, sha256
from wgflow.generative.metrics.fid import FID, ReferenceStats, frechet_distance, reference_stats
from wgflow.generative.metrics.image_features import ImageFeatures
from wgflow.generative.metrics.inception import INCEPTION_FILES, INCEPTION_VARIABLE, InceptionFeatures
from wgflow.measures import Dataset, Particles, Smoothed


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, *, high=101, channels=3, size=2, seed=0):
    return torch.randint(high, (n, channels, size, size), dtype=torch.uint8, generator=rng(seed))


def exactly(uint8):
    """A model whose draw of all images is the given set."""
    return Particles(to_unit(uint8))


def stats(mean, cov, n=100, id="toy"):
    return ReferenceStats(torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(cov, dtype=torch.float64), n, id)


PIXELS = ModuleFeatures(nn.Flatten(), 12, "pixels, 0 to 255", preprocess=torch.Tensor.double)


# ---------------------------------------------------------------- the distance


def test_between_two_gaussians_that_do_not_commute():
    """Test vector of the closed-form catalogue: W2² of N(m, C) and N(m*, A⁻¹)."""
    cov = np.linalg.inv([[2.0, 0.5], [0.5, 1.0]])
    value = frechet_distance(stats([-1, 2], [[1, -0.3], [-0.3, 2]]), stats([1, -1], cov))
    assert value == pytest.approx(13.189686016821, abs=1e-11)


def test_is_symmetric_and_zero_at_itself_also_for_singular_covariances():
    """20 images in 48 dimensions: roots of eigenvalues would leave an error of about 1e-6 here."""
    net = ModuleFeatures(nn.Flatten(), 48, "pixels in [-1, 1]")
    a, b = (reference_stats(net, images(20, size=4, seed=s)) for s in (1, 2))
    assert abs(frechet_distance(a, a)) < 1e-12
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert frechet_distance(a, b) > 1


def test_statistics_are_the_mean_and_the_unbiased_covariance():
    x = images(50)
    found = reference_stats(PIXELS, x, batch=7)
    flat = x.flatten(1).numpy()
    np.testing.assert_allclose(found.mu.numpy(), flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.sigma.numpy(), np.cov(flat.T), rtol=0, atol=1e-9)
    assert (found.n, found.id) == (50, PIXELS.id)


class Affine(nn.Module):
    """Pixels times a scale plus an offset."""

    def __init__(self, scale=1.0, offset=0.0, dtype=torch.float64):
        super().__init__()
        self.scale, self.offset, self.dtype = scale, offset, dtype

    def forward(self, x):
        return (self.scale * x.flatten(1).double() + self.offset).to(self.dtype)


def affine_distance(n=60, **settings):
    net = ModuleFeatures(Affine(**settings), 12, "affine", preprocess=lambda x: x)
    return frechet_distance(*(reference_stats(net, x, batch=25) for x in (images(n), images(n, high=201, seed=1))))


@pytest.mark.parametrize("offset", [1e4, -1e6, 1e8])
def test_a_large_mean_of_the_features_does_not_hide_their_covariance(offset):
    """Translations leave the distance; sums of outer products would keep 16 digits of the square of the offset."""
    x = images(300)
    found = reference_stats(ModuleFeatures(Affine(offset=offset), 12, "affine", preprocess=lambda x: x), x, batch=70)
    np.testing.assert_allclose(found.sigma.numpy(), np.cov(x.flatten(1).numpy().T), rtol=0, atol=1e-5)
    assert affine_distance(offset=offset) == pytest.approx(affine_distance(), rel=1e-8)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("n", [5, 60])
def test_the_distance_scales_with_the_square_of_the_features(scale, n):
    assert affine_distance(n, scale=scale) == pytest.approx(scale**2 * affine_distance(n), rel=1e-10)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float32, 1e-12)]
)
def test_features_in_low_precision_are_summed_in_float64(dtype, tolerance):
    assert affine_distance(dtype=dtype) == pytest.approx(affine_distance(), rel=tolerance)


@pytest.mark.parametrize("rank", [0, 1, 5, 12])
def test_a_set_is_at_distance_zero_from_its_copy_and_the_distance_is_never_negative(rank):
    basis = torch.randn(12, max(rank, 1), dtype=torch.float64, generator=rng())
    sigma = (basis @ basis.T if rank else torch.zeros(12, 12).double()) * 1e6
    near = stats(torch.zeros(12), sigma * (1 + 1e-12))
    assert 0 <= frechet_distance(stats(torch.zeros(12), sigma), near) <= 1e-12 * float(sigma.trace())


def test_a_collapsed_model_pays_the_distance_of_the_means_and_the_spread_of_the_data():
    x = images(40)
    flat = x.flatten(1).double()
    exact = (flat.mean(0) - 50).square().sum() + flat.var(0).sum()
    collapsed = exactly(torch.full_like(x, 50))
    assert FID(PIXELS, x, n=40, batch=40)(collapsed, rng())["frechet"] == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("batch", [7, 60])
def test_model_with_a_known_shift(batch):
    """Every pixel 10 brighter: equal covariances, 12 · 10²."""
    x = images(60)
    assert FID(PIXELS, x, n=60, batch=60)(exactly(x + 10), rng())["frechet"] == pytest.approx(1200, rel=1e-10)
    assert FID(PIXELS, x, n=60, batch=batch).stats.mu.allclose(x.flatten(1).double().mean(0))


def test_model_with_a_known_dilation():
    """Twice the value everywhere: |m|² + tr C, for any law of the pixels."""
    x = images(60)
    flat = x.flatten(1).double()
    expected = (flat.mean(0).square().sum() + flat.var(0).sum()).item()
    assert FID(PIXELS, x, n=60, batch=60)(exactly(2 * x), rng())["frechet"] == pytest.approx(expected, rel=1e-10)


def test_rounding_to_8_bits_loses_nothing():
    """All levels, through [-1, 1] in float32 and back."""
    x = torch.arange(256, dtype=torch.uint8).repeat(12)[torch.randperm(3072, generator=rng())].view(256, 3, 2, 2)
    assert abs(FID(PIXELS, x, n=256, batch=256)(exactly(x), rng())["frechet"]) < 1e-8


def test_equals_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance
    x, y = images(300), images(300, high=201, seed=1)
    theirs = fid(feature=PIXELS)
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    ours = FID(PIXELS, x, n=300, batch=300)(exactly(y), rng())["frechet"]
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-9)


def test_kernel_distance_is_the_unbiased_mmd():
    """With at most 1000 images every subset is the whole set."""
    x, y = images(40), images(40, high=201, seed=1)
    values = FID(PIXELS, x, n=40, batch=40, kid=True)(exactly(y), rng())
    kernel = lambda a, b: (a @ b.T / 12 + 1) ** 3  # noqa: E731
    a, b = x.flatten(1).double().numpy(), y.flatten(1).double().numpy()
    within = sum((k := kernel(c, c)).sum() - np.trace(k) for c in (a, b)) / (40 * 39)
    assert values["kernel"] == pytest.approx(within - 2 * kernel(a, b).mean(), rel=1e-9)
    assert values["kernel_std"] == pytest.approx(0, abs=1e-6 * values["kernel"])
    assert {type(v) for v in values.values()} == {float}


def test_one_pass_of_the_network_serves_both_distances_and_the_reference_is_kept():
    class Counting(nn.Flatten):
        seen = 0

        def forward(self, x):
            Counting.seen += len(x)
            return super().forward(x)

    metric = FID(ModuleFeatures(Counting(), 12, "counting"), images(30), n=20, batch=8, kid=True)
    model = ImageData(images(50, seed=1))
    first = metric(model, rng(1))
    assert Counting.seen == 30 + 20
    assert metric(model, rng(1)) == first
    assert Counting.seen == 30 + 20 + 20


def test_depends_on_its_generator_only():
    model, x = ImageData(images(3000, seed=1)), images(1500)
    before = torch.get_rng_state()
    metric = FID(PIXELS, x, n=1500, batch=500, kid=True, subsets=3)
    assert "subsets=3x1000" in metric.protocol
    first = metric(model, rng(1))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert metric(model, rng(1)) == first
    assert first["kernel_std"] > 0
    assert metric(model, rng(2))["frechet"] != first["frechet"]


def test_saved_statistics_give_the_same_distance(tmp_path):
    data, model = ImageSet(images(60), None, "sixty"), exactly(images(60, seed=1))
    from_images = FID(PIXELS, data, n=60, batch=60)
    from_images.stats.save(tmp_path / "real.npz")
    loaded = ReferenceStats.load(tmp_path / "real.npz")
    assert [f.name for f in tmp_path.iterdir()] == ["real.npz"]
    assert (loaded.n, loaded.id, loaded.source) == (60, PIXELS.id, "sixty")
    from_stats = FID(PIXELS, loaded, n=60, batch=60)
    assert from_stats(model, rng()) == from_images(model, rng())
    assert from_stats.protocol == from_images.protocol
    for part in (PIXELS.id, "not FID", "n_real=60", "n_fake=60", "sixty"):
        assert part in from_stats.protocol


def test_protocols_are_not_mixed():
    other = stats(torch.zeros(12), torch.eye(12), id="other network")
    with pytest.raises(BadInput, match=r"other network.*pixels, 0 to 255"):
        FID(PIXELS, other)
    with pytest.raises(BadInput, match=r"toy.*other network"):
        frechet_distance(replace(other, id="toy"), other)


def test_kernel_distance_refuses_statistics():
    with pytest.raises(BadInput, match="needs the real images"):
        FID(PIXELS, reference_stats(PIXELS, images(5)), kid=True)


def test_files_that_are_not_statistics(tmp_path):
    with pytest.raises(DataNotFound, match="no feature statistics"):
        ReferenceStats.load(tmp_path / "none.npz")
    reference_stats(PIXELS, images(5)).save(tmp_path / "good.npz")
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "foreign.npz", mu=np.zeros(2), sigma=np.eye(2))
    np.savez(tmp_path / "nan.npz", mu=np.full(2, np.nan), sigma=np.eye(2), n=5, id="a", source="")
    np.savez(tmp_path / "pickle.npz", mu=np.array([{}], dtype=object))
    for name in ("cut", "foreign", "nan", "pickle"):
        with pytest.raises(BadInput, match=f"{name}.npz does not hold feature statistics"):
            ReferenceStats.load(tmp_path / f"{name}.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mu": torch.zeros(2, 2).double()}, r"mu \(D,\)"),
        ({"sigma": torch.eye(3).double()}, r"\(2,\) and \(3, 3\)"),
        ({"mu": torch.zeros(2)}, "float64"),
        ({"mu": torch.tensor([0.0, torch.nan]).double()}, r"mu has entries that are not finite, the first at \(1,\)"),
        ({"sigma": torch.tensor([[1.0, 0.5], [0.4, 1.0]]).double()}, "symmetric"),
        ({"n": 1}, "n=1.*from 2 up"),
        ({"id": ""}, "protocol id"),
    ],
)
def test_bad_statistics(arguments, message):
    with pytest.raises(BadInput, match=message):
        replace(stats([0, 0], np.eye(2)), **arguments)


def test_moments_that_no_set_of_features_has():
    with pytest.raises(BadInput, match="eigenvalues go from -1 to 3"):
        frechet_distance(stats([0, 0], np.eye(2)), stats([0, 0], [[1, 2], [2, 1]]))
    with pytest.raises(BadInput, match="of 2 and of 3 numbers"):
        frechet_distance(stats([0, 0], np.eye(2)), stats([0, 0, 0], np.eye(3)))


@pytest.mark.parametrize(
    ("image", "warns"),
    [
        (lambda u: u, True),  # levels 0 to 255
        (lambda u: u / 255, True),
        (lambda u: 2 * (u / 127.5 - 1), True),
        (lambda u: u / 127.5 - 1, False),
        (lambda u: 1.05 * (u / 127.5 - 1), False),  # a network without tanh overshoots
        (torch.zeros_like, False),  # collapsed to mid-grey
    ],
)
def test_a_model_in_another_range_is_told_so_once(image, warns):
    """Values that are cut off, or all in the upper half, mean numbers about other images than the model's."""
    x = images(20, high=256)
    metric, model = FID(PIXELS, x, n=20, batch=6), Particles(image(x.float()))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        metric(model, rng())
        metric(model, rng())
    assert len(said) == warns
    assert all("expected [-1, 1]" in str(w.message) for w in said)


def test_images_whose_features_are_asked_by_hand_are_in_the_same_range():
    seen, levels = ImageFeatures(PIXELS), images(20, high=256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(seen(to_unit(levels)), levels.float().expand(-1, 3, -1, -1).flatten(1))
    for wrong in (levels.float(), levels / 255):
        with pytest.warns(UserWarning, match=r"images have values .* expected \[-1, 1\]"):
            ImageFeatures(PIXELS)(wrong)
    with pytest.raises(BadInput, match=r"nan in image 3, first at \(0, 1, 1\)"):
        seen(to_unit(levels).index_put(tuple(map(torch.tensor, (3, 0, 1, 1))), torch.tensor(torch.nan)))


X = images(8)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Particles(to_unit(X).masked_fill(X[0, 0, 0, 0] == X, torch.nan)), r"nan in image 0, first at \(0, 0, 0\)"),
        (exactly(images(8, channels=2)), "1 or 3"),
        (exactly(images(8, size=3)), r"shape \(8, 12\), got \(8, 27\)"),
        (Particles(torch.zeros(8, 12)), "1 or 3"),
    ],
)
def test_bad_draws(model, message):
    with pytest.raises(BadInput, match=message):
        FID(PIXELS, X, n=8, batch=8)(model, rng())


def test_a_weighted_model_is_counted_by_its_weights():
    """Every image of weight w among 8 is drawn 8 w times, as if it were there as often."""
    counts = torch.tensor([3, 1, 2, 0, 0, 1, 0, 1])
    model = Particles(to_unit(X), counts.log())
    metric = FID(PIXELS, images(30), n=8, batch=8)
    repeated = Particles(to_unit(X.repeat_interleave(counts, 0)))
    assert metric(model, rng()) == pytest.approx(metric(repeated, rng()), rel=1e-6)


@pytest.mark.parametrize("n", [30, 60])
def test_weights_that_are_no_numbers_are_refused(n):
    """Their draws are images, and the distance looked like one; found through what a law is made of."""
    x, lost = to_unit(images(60)), torch.where(torch.arange(60) == 3, torch.nan, 0.0)
    for law in (Particles(x, lost), Smoothed(Particles(x, lost), lambda k: 0.0)):
        with pytest.raises(BadInput, match="log_w of this Particles must be finite"):
            FID(PIXELS, images(60, seed=1), n=n)(law, rng())


def test_bad_sizes():
    with pytest.raises(BadInput, match=r"n=1.*from 2 up"):
        FID(PIXELS, X, n=1)
    with pytest.raises(BadInput, match=r"batch=0.*from 1 up"):
        FID(PIXELS, X, batch=0)
    with pytest.raises(BadInput, match="at least two images"):
        FID(PIXELS, X[:1])
    with pytest.raises(BadInput, match="n >= 2 images"):
        reference_stats(PIXELS, X[:1])


@pytest.mark.parametrize("reference", [torch.rand(8, 3, 2, 2), torch.zeros(8, 12, dtype=torch.uint8), [X], iter([X])])
def test_references_that_are_not_images(reference):
    for use in (FID, reference_stats):
        with pytest.raises(BadInput, match=r"(?s)images must|(reference|images)=.*: expected a tensor"):
            use(PIXELS, reference)


@pytest.mark.parametrize("features", [nn.Flatten(), lambda x: x, RandomConvFeatures, "inception", None])
def test_features_that_do_not_say_what_they_are(features):
    for use in (FID, reference_stats):
        with pytest.raises(
            BadInput, match=r"features=.*(expected a FeatureExtractor|ModuleFeatures.net, num_features, id=)"
        ):
            use(features, X)


@pytest.mark.parametrize("model", [None, X[:, 0, 0, 0], Particles, "model"])
def test_what_is_no_model(model):
    with pytest.raises(BadInput, match=r"(?s)rho=.*: expected a Measure"):
        FID(PIXELS, X, n=8)(model, rng())
    with pytest.raises(BadInput, match="rng=0: expected a Generator"):
        FID(PIXELS, X, n=8)(exactly(X), 0)


def test_networks_that_take_other_images_and_features_that_overflow():
    grey = ModuleFeatures(nn.Conv2d(1, 2, 3), 2, "grey")
    with pytest.raises(BadInput, match=r"the network of grey cannot take \(8, 3, 2, 2\).*expected input"):
        reference_stats(grey, X)
    with pytest.raises(BadInput, match=r"features of affine are too large"):
        affine_distance(scale=1e160)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda x: x.flatten(1).log(), r"not finite, the first for image 3: feature 7 is -inf"),
        (lambda x: x.flatten(1).long(), r"floating-point tensor of features, got torch\.int64"),
        (lambda x: (x.flatten(1), x), "floating-point tensor of features, got tuple"),
        (lambda x: x.flatten(), r"of shape \(2, 12\), got \(24,\)"),
    ],
)
def test_features_that_are_none(net, message):
    class Broken(nn.Module):
        def forward(self, x):
            return net(x)

    x = torch.ones_like(X)
    x[3].flatten()[7] = x[5, 0] = 0
    broken = ModuleFeatures(Broken(), 12, "broken", preprocess=torch.Tensor.float)
    with pytest.raises(BadInput, match=f"^broken .*{message}"):
        reference_stats(broken, x, batch=2)


# ---------------------------------------------------------------- random and user networks


def test_random_network_is_a_function_of_its_seed():
    x = images(4, size=16, high=256)
    before = torch.get_rng_state()
    a, b, c = RandomConvFeatures(1), RandomConvFeatures(1), RandomConvFeatures(2)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a(x), b(x))
    assert not torch.equal(a(x), c(x))
    assert a.id == b.id != c.id
    assert a.id.startswith("proxy-random-conv")
    assert a(x).shape == (4, a.num_features)


def test_grey_images_are_repeated():
    grey = images(4, channels=1, size=8)
    net = RandomConvFeatures()
    assert torch.equal(net(grey), net(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(BadInput, match="uint8"):
        net(grey.float())


def test_user_network_is_copied_and_stays_in_evaluation_mode():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 5))
    net = ModuleFeatures(module, 5, "mine").train()
    assert module.training
    assert module[2].weight.requires_grad
    out = net(X)
    assert torch.equal(out, net(X))
    assert not out.requires_grad
    torch.testing.assert_close(out, module[2](to_unit(X).flatten(1)))


# ---------------------------------------------------------------- the CIFAR classifier


def cifar_test(shared_data, parts):
    """The first 2000 · parts test images, uint8 (n, 3, 32, 32), and their labels."""
    folder = shared_data("cifar10")
    sys.path.insert(0, str(folder.parent))
    try:
        import imgpack
    finally:
        sys.path.pop(0)
    x = np.concatenate([imgpack.load(folder / f"test_{i}.npz") for i in range(parts)])
    y = np.load(folder / "labels.npz")["test"][: len(x)]
    return torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(y.astype(np.int64))


@pytest.fixture(scope="module")
def resnet20(shared_data):
    return CifarResNetFeatures(shared_data("cifar10_resnet") / "resnet20.npz")


def accuracy(net, x, y):
    return sum(
        int((net.logits(a).argmax(1) == b).sum()) for a, b in zip(x.split(100), y.split(100), strict=True)
    ) / len(x)


def test_resnet20_reaches_its_published_accuracy(resnet20, shared_data):
    """91.73 % of all 10000; of the first 500, within three binomial standard deviations."""
    x, y = cifar_test(shared_data, 1)
    assert abs(accuracy(resnet20, x[:500], y[:500]) - 0.9173) < 3 * (0.9173 * 0.0827 / 500) ** 0.5
    assert abs(accuracy(resnet20, x[:500].flip(2), y[:500]) - 0.9173) > 0.1  # upside down it must not


@pytest.mark.slow
def test_resnet20_reaches_its_published_accuracy_on_all_test_images(resnet20, shared_data):
    assert accuracy(resnet20, *cifar_test(shared_data, 5)) == pytest.approx(0.9173, abs=2e-4)


def test_depth_is_read_from_the_file(resnet20, shared_data):
    resnet56 = CifarResNetFeatures(shared_data("cifar10_resnet") / "resnet56.npz")
    assert (
        resnet20.id == f"cifar-resnet20-features sha256:{sha256(shared_data('cifar10_resnet') / 'resnet20.npz')[:12]}"
    )
    assert resnet56.id.startswith("cifar-resnet56-features")
    # 0.27 M and 0.85 M parameters: He et al. 2016, Table 6
    assert [round(sum(p.numel() for p in net.parameters()) / 1e6, 2) for net in (resnet20, resnet56)] == [0.27, 0.85]


def test_resnet_features_feed_its_linear_layer_and_its_distance_is_not_called_fid(resnet20):
    x = images(40, high=256, size=32)
    found = resnet20(x)
    assert found.shape == (40, 64)
    torch.testing.assert_close(resnet20.logits(x), found @ resnet20.linear.weight.T + resnet20.linear.bias)
    metric = FID(resnet20, x, n=40, batch=40)
    assert set(metric(exactly(x.flip(2)), rng())) == {"frechet"}
    assert "not FID" in metric.protocol
    with pytest.raises(BadInput, match="32 x 32"):
        resnet20(images(2, size=28))


def test_files_that_are_not_a_resnet(tmp_path, shared_data):
    with pytest.raises(DataNotFound, match="no file of network weights"):
        CifarResNetFeatures(tmp_path / "none.npz")
    with np.load(shared_data("cifar10_resnet") / "resnet20.npz") as z:
        good = dict(z)
    cases = {
        "without": {k: v for k, v in good.items() if k != "layer3.2.bn2.weight"},
        "unknown": good | {"layer4.0.conv1.weight": np.zeros(1, np.float32)},
        "size mismatch": good | {"conv1.weight": np.zeros((16, 1, 3, 3), np.float32)},
        "no blocks": {"conv1.weight": good["conv1.weight"]},
    }
    for name, arrays in cases.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(BadInput, match="does not hold a CIFAR ResNet"):
            CifarResNetFeatures(tmp_path / f"{name}.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "without.npz").read_bytes()[:5000])
    for name in ("text.npz", "array.npy", "cut.npz"):
        with pytest.raises(BadInput, match=r"is not an \.npz file"):
            CifarResNetFeatures(tmp_path / name)


# ---------------------------------------------------------------- Inception


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty torch hub folder, no variable, and no way to the network."""

    def refused(*args, **kwargs):
        raise AssertionError("tried to reach the network")

    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for name in ("download_url_to_file", "load_state_dict_from_url", "load", "urlopen"):
        monkeypatch.setattr(torch.hub, name, refused)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_missing_weights_say_what_to_do_and_nothing_is_downloaded(hub, monkeypatch, tmp_path):
    with pytest.raises(DataNotFound) as caught:
        InceptionFeatures()
    for part in (*INCEPTION_FILES, "6726825d", str(hub), INCEPTION_VARIABLE, "allow_download=True"):
        assert part in str(caught.value)
    with pytest.raises(DataNotFound, match=r"nowhere\.pth \(from argument weights\)"):
        InceptionFeatures(tmp_path / "nowhere.pth")
    monkeypatch.setenv(INCEPTION_VARIABLE, str(tmp_path / "gone.pth"))
    with pytest.raises(DataNotFound, match=rf"gone\.pth \(from {INCEPTION_VARIABLE}\)"):
        InceptionFeatures()


def test_weights_are_looked_up_in_order(hub, monkeypatch, tmp_path):
    find = inception_module.find_inception_weights
    for path in (hub / INCEPTION_FILES[1], hub / INCEPTION_FILES[0], tmp_path / "variable", tmp_path / "argument"):
        path.touch()
        if path.name == "variable":
            monkeypatch.setenv(INCEPTION_VARIABLE, str(path))
        assert find(path if path.name == "argument" else None) == path


@pytest.mark.parametrize("where", ["argument", "variable", "hub"])
def test_wrong_file_is_refused_before_it_is_loaded(hub, monkeypatch, tmp_path, where):
    path = hub / INCEPTION_FILES[1] if where == "hub" else tmp_path / "weights.pth"
    torch.save({"fc.bias": torch.zeros(1008)}, path)
    if where == "variable":
        monkeypatch.setenv(INCEPTION_VARIABLE, str(path))
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("loaded before its hash was checked"))
    with pytest.raises(BadInput, match=r"expected 6726825d\. It was not loaded"):
        InceptionFeatures(path if where == "argument" else None)


def test_download_only_when_allowed_and_checked_by_its_hash(hub, monkeypatch):
    pytest.importorskip("torch_fidelity")
    asked = []

    def download(url, destination, hash_prefix):
        asked.append((url, hash_prefix))
        open(destination, "wb").close()

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert inception_module.find_inception_weights(allow_download=True) == hub / INCEPTION_FILES[0]
    ((url, digest),) = asked
    assert url.endswith(INCEPTION_FILES[0])
    assert digest.startswith("6726825d")
    assert len(digest) == 64


class Payload:
    ran = False

    def __reduce__(self):
        return setattr, (Payload, "ran", True)


def test_pickled_code_is_not_run(hub, monkeypatch, tmp_path):
    """Even if its hash were right."""
    pytest.importorskip("torch_fidelity")
    path = tmp_path / "weights.pth"
    torch.save({"fc.bias": Payload()}, path)
    monkeypatch.setattr(inception_module, "INCEPTION_SHA256", sha256(path))
    with pytest.raises(pickle.UnpicklingError):
        InceptionFeatures(path)
    assert not Payload.ran


def test_inception_is_torch_fidelitys_network_after_the_resize_of_pytorch_fid(hub, monkeypatch, tmp_path):
    """Random weights in the published layout; torch-fidelity's own forward pass, with its first input replaced."""
    network = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with monkeypatch.context() as patch:
        patch.setattr(network.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        theirs = network.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], empty)
    with torch.no_grad():
        for name, buffer in theirs.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=rng(1), std=0.1)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(inception_module, "INCEPTION_SHA256", sha256(tmp_path / "weights.pth"))
    ours = InceptionFeatures(tmp_path / "weights.pth")

    x = images(2, high=256, size=32)
    plain = nn.functional.interpolate(x.float() / 255, size=(299, 299), mode="bilinear", align_corners=False) * 2 - 1
    theirs.Conv2d_1a_3x3.register_forward_pre_hook(lambda module, args: (plain,))
    torch.testing.assert_close(ours(x), theirs(x)[0], rtol=1e-5, atol=1e-6)
    assert ours(x).std() > 0
    assert "bilinear-299" in ours.id


class SmallInception(InceptionFeatures):
    """Stands for the published network where only its name matters."""

    num_features = 12

    def __init__(self):
        nn.Module.__init__(self)
        self.id = "inception-v3-fid stand-in"

    def _features(self, rgb):
        return rgb.flatten(1).double()


def test_the_published_names_belong_to_the_inception_network():
    metric = FID(SmallInception(), X, n=8, batch=8, kid=True)
    values, other = metric(exactly(X + 1), rng()), FID(PIXELS, X, n=8, batch=8, kid=True)(exactly(X + 1), rng())
    assert list(values) == ["fid", "kid", "kid_std"]
    assert list(other) == ["frechet", "kernel", "kernel_std"]
    assert list(values.values()) == list(other.values())
    assert metric.protocol.startswith("FID: inception-v3-fid stand-in")


@pytest.mark.parametrize("batch", [3, 7, 20, 100])
@pytest.mark.parametrize("exactly", [exactly, ImageData, lambda u: Dataset(to_unit(u))])
def test_a_model_that_is_the_real_images_is_at_distance_zero_whatever_the_batch(exactly, batch: int) -> None:
    real = images(20)
    once, twice = (FID(RandomConvFeatures(0), real, n=n, batch=batch) for n in (20, 40))
    assert once(exactly(real), rng())["frechet"] < 1e-12
    wider = (40 / 39) / (20 / 19)  # the factor 1/(n - 1) of covariances is all in which two copies differ from one
    between = float(once.stats.sigma.trace()) * (1 - wider**0.5) ** 2
    assert twice(exactly(real), rng())["frechet"] == pytest.approx(between, rel=1e-6)
