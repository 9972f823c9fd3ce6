import copy
import itertools
import pickle
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as nnf
from torch.utils._python_dispatch import TorchDispatchMode

from wgflow import BadInput, MissingDependency
from wgflow.generative.nets import (
    NETWORKS,
    ConvCritic,
    ConvGenerator,
    LargeCritic,
    LargeGenerator,
    SmallCritic,
    SmallGenerator,
    ToyCritic,
    ToyGenerator,
)
from wgflow.generative.nets._common import FIRResample, MinibatchDeviation, SumPoolHead
from wgflow.generative.nets.fine import Doubled

SIZES = {  # tiny arguments of generator and critic, shape of the data
    "toy": ({"dim": 3, "noise_dim": 1, "width": 16}, {"dim": 3, "width": 16}, (3,)),
    "conv-28": ({"channels": 8}, {"channels": 8}, (1, 28, 28)),
    "conv-32": (
        {"image_shape": (3, 32, 32), "channels": 4, "latent_dim": 12},
        {"image_shape": (3, 32, 32), "channels": 4},
        (3, 32, 32),
    ),
    "fine-28": ({"channels": 8}, {"channels": 8}, (1, 28, 28)),
    "fine-32": (
        {"image_shape": (3, 32, 32), "channels": 4, "latent_dim": 12},
        {"image_shape": (3, 32, 32), "channels": 4},
        (3, 32, 32),
    ),
    "small-28": (
        {"image_shape": (1, 28, 28), "channels": 8},
        {"image_shape": (1, 28, 28), "channels": 8},
        (1, 28, 28),
    ),
    "small-32": ({"channels": 8}, {"channels": 8}, (3, 32, 32)),
    "small-48": (
        {"image_shape": (1, 48, 48), "channels": 8, "latent_dim": 7},
        {"image_shape": (1, 48, 48), "channels": 8},
        (1, 48, 48),
    ),
    "large-16": (
        {"image_shape": (1, 16, 16), "channels": 32, "noise_dim": 5},
        {"image_shape": (1, 16, 16), "channels": 8},
        (1, 16, 16),
    ),
    "large-28": (
        {"image_shape": (1, 28, 28), "channels": 32, "multipliers": (1, 2, 2), "blocks_per_level": 1},
        {"image_shape": (1, 28, 28), "channels": 8},
        (1, 28, 28),
    ),
    "large-32": (
        {"channels": 32, "multipliers": (1, 2), "blocks_per_level": 1},
        {"channels": 8},
        (3, 32, 32),
    ),
}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def make_generator(case):
    if case.startswith("large"):
        pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return NETWORKS[case.partition("-")[0]].generator(**SIZES[case][0])


def make_critic(case):
    torch.manual_seed(0)
    return NETWORKS[case.partition("-")[0]].critic(**SIZES[case][1])


def inputs(net, n, seed=0):
    """One batch per argument of a generator's forward."""
    draws = rng(seed)
    shapes = [net.source_shape] + ([] if net.noise_shape is None else [net.noise_shape])
    return [torch.randn(n, *shape, generator=draws) for shape in shapes]


def count(net):
    return sum(p.numel() for p in net.parameters())


# ---------------------------------------------------------------------------------- every pair


@pytest.mark.parametrize("case", SIZES)
def test_generator_critic_and_reference_fit_together(case):
    generator, critic, shape = make_generator(case), make_critic(case), SIZES[case][2]
    batches = inputs(generator, 5)
    y = generator(*batches)
    assert y.shape == (5, *shape)
    assert critic(y).shape == (5,)
    assert critic(y[:1]).shape == (1,)
    reference = generator.reference()
    assert reference(batches[0]).shape == (5, *shape)
    assert count(reference) == 0
    if len(shape) == 3:
        assert y.abs().max() <= 1


@pytest.mark.parametrize("case", SIZES)
def test_generator_rows_are_independent_in_eval_mode(case):
    generator = make_generator(case)
    generator(*inputs(generator, 8, seed=1))  # moves the running statistics of BatchNorm off their start
    generator.eval()
    batches = inputs(generator, 4)
    together = generator(*batches)
    alone = torch.cat([generator(*(batch[i : i + 1] for batch in batches)) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3  # and they are not all the same


@pytest.mark.parametrize("case", SIZES)
def test_every_parameter_receives_a_gradient(case):
    generator, critic = make_generator(case), make_critic(case)
    critic(generator(*inputs(generator, 4))).sum().backward()
    for net in (generator, critic):
        missing = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing


@pytest.mark.parametrize("case", [case for case in SIZES if case != "toy"])
def test_channels_last_changes_the_layout_and_not_the_values(case):
    generator, critic = make_generator(case).eval(), make_critic(case)
    batches = inputs(generator, 3)
    y = generator(*batches)
    v = critic(y)
    generator, critic = (net.to(memory_format=torch.channels_last) for net in (generator, critic))
    batches = [b.contiguous(memory_format=torch.channels_last) if b.ndim == 4 else b for b in batches]
    torch.testing.assert_close(generator(*batches), y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(critic(y.contiguous(memory_format=torch.channels_last)), v, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", SIZES)
def test_copies_and_state_dicts_reproduce_the_network(case):
    generator = make_generator(case).eval()
    batches = inputs(generator, 2)
    fresh = make_generator(case).eval()
    with torch.no_grad():
        for p in fresh.parameters():
            p.zero_()
    fresh.load_state_dict(generator.state_dict())
    # Pickling also fails if diffusers' resampling lambdas, which copy a kernel to the device, were left in.
    for twin in (copy.deepcopy(generator), fresh, pickle.loads(pickle.dumps(generator))):
        assert torch.equal(twin(*batches), generator(*batches))


class _HostTraffic(TorchDispatchMode):
    """Collects operators that read a tensor into Python or make one from Python numbers."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.lift_fresh):
            self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", SIZES)
def test_forward_never_exchanges_numbers_with_the_host(case):
    generator, critic = make_generator(case), make_critic(case)
    batches = inputs(generator, 5)
    with _HostTraffic() as traffic:
        critic(generator(*batches)).sum().backward()
    assert not traffic.seen
    with _HostTraffic() as traffic:  # the detector works
        torch.tensor([1.0, 2.0]).sum().item()
    assert len(traffic.seen) == 2


# ---------------------------------------------------------------------------------- double backward


@pytest.mark.parametrize("case", SIZES)
def test_critic_double_backward_matches_finite_differences(case):
    critic = make_critic(case).double()
    parameters = list(critic.parameters())
    draws = rng(3)
    with torch.no_grad():  # away from the almost vanishing start of the large critic
        for p in parameters:
            p.copy_(0.3 * torch.randn(p.shape, generator=draws, dtype=p.dtype))
    y = torch.randn(3, *SIZES[case][2], generator=draws, dtype=torch.float64)
    direction = [torch.randn(p.shape, generator=draws, dtype=p.dtype) for p in parameters]

    def r1():
        leaf = y.clone().requires_grad_()
        (slope,) = torch.autograd.grad(critic(leaf).sum(), leaf, create_graph=True)
        return slope.square().sum()

    exact = sum(
        (g * d).sum()
        for g, d in zip(torch.autograd.grad(r1(), parameters, allow_unused=True), direction, strict=True)
        if g is not None  # R1 does not see the last bias
    )

    def moved(step):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=step)
        value = r1().detach()
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.sub_(d, alpha=step)
        return value

    step = 1e-8  # small: LeakyReLU has kinks, which a larger step would cross
    numeric = (moved(step) - moved(-step)) / (2 * step)
    assert exact.abs() > 0
    torch.testing.assert_close(exact, numeric, rtol=1e-4, atol=0)


# ---------------------------------------------------------------------------------- toy


def test_toy_parameter_counts():
    # s-jko spec, section 6
    assert count(ToyGenerator()) == 182_658
    assert count(ToyCritic()) == 165_633


def test_toy_body_halves_the_variance_of_each_sum_and_the_output_is_not_residual():
    net = ToyGenerator()
    x, z = inputs(net, 4)
    with torch.no_grad():
        for p in net.body.blocks.parameters():
            p.zero_()
        torch.testing.assert_close(net.body(x), net.body.lift(x) / 2**1.5)
        for p in net.parameters():
            p.zero_()
    assert torch.equal(net(x, z), torch.zeros(4, 2))
    assert torch.equal(net.reference()(x), x)


# ---------------------------------------------------------------------------------- small


def test_small_generator_parameter_counts():
    assert count(SmallGenerator()) == pytest.approx(0.42e6, rel=0.15)  # S-JKO, spec section 6
    assert count(SmallGenerator(channels=256)) == pytest.approx(4.3e6, rel=0.02)  # GWF, spec section 13.3


def test_small_generator_block_is_residual_and_does_not_apply_its_stack_twice():
    block = SmallGenerator(channels=4).blocks[0].eval()
    h = torch.randn(2, 4, 4, 4, generator=rng())
    upsampled = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(block(h) - upsampled, block.stack(h))


@pytest.mark.parametrize(("size", "start", "blocks"), [(8, 4, 1), (28, 7, 2), (32, 4, 3), (64, 4, 4), (80, 5, 4)])
def test_small_generator_starts_from_the_smallest_side(size, start, blocks):
    net = SmallGenerator(image_shape=(1, size, size), channels=2)
    assert net.dense.out_features == 2 * start**2
    assert len(net.blocks) == blocks


@pytest.mark.parametrize(("shape", "side"), [((3, 32, 32), 8), ((1, 28, 28), 13), ((1, 8, 8), 8)])
def test_small_reference_map(shape, side):
    reference = SmallGenerator(image_shape=shape, channels=2).reference().double()
    used = shape[0] * side**2
    assert torch.allclose(reference(torch.full((2, 192), 0.7, dtype=torch.float64)), torch.tensor(0.7).double())
    x = torch.randn(2, 192, generator=rng(), dtype=torch.float64).requires_grad_()
    y = reference(x)
    expected = nnf.interpolate(x[:, :used].reshape(2, shape[0], side, side), shape[1:], mode="bicubic")
    assert torch.equal(y, expected)
    (slope,) = torch.autograd.grad(y.square().sum(), x)
    assert (slope[:, :used] != 0).all()
    assert (slope[:, used:] == 0).all()


def test_small_reference_map_is_a_reshape_when_the_latent_has_the_size_of_the_image():
    x = torch.randn(3, 128, generator=rng())
    reference = SmallGenerator(image_shape=(2, 8, 8), channels=2, latent_dim=128).reference()
    torch.testing.assert_close(reference(x), x.reshape(3, 2, 8, 8))


def test_small_critic_pools_twice_and_sums_over_pixels():
    critic = SmallCritic(image_shape=(1, 28, 28), channels=4)
    y = torch.randn(3, 1, 28, 28, generator=rng())
    features = torch.relu(critic.blocks(y))
    assert features.shape == (3, 4, 7, 7)
    summed = features.double().sum((2, 3))
    expected = summed @ critic.head.linear.weight[0].double() + critic.head.linear.bias.double()
    torch.testing.assert_close(critic(y), expected.float())


def test_small_critic_values_images_independently():
    critic = make_critic("small-28")
    y = torch.randn(4, 1, 28, 28, generator=rng())
    torch.testing.assert_close(critic(y), torch.cat([critic(y[i : i + 1]) for i in range(4)]), rtol=1e-4, atol=1e-4)


def test_head_keeps_full_precision_under_autocast():
    head = SumPoolHead(4)
    features = torch.rand(2, 4, 16, 16, generator=rng())
    with torch.autocast("cpu", torch.bfloat16):
        value = head(features)
    assert torch.equal(value, head(features))


# ---------------------------------------------------------------------------------- large


def test_large_generator_has_about_the_published_number_of_parameters():
    pytest.importorskip("diffusers")
    with torch.device("meta"):
        net = LargeGenerator()
    assert count(net) == pytest.approx(48e6, rel=0.15)  # S-JKO, spec section 6


def test_large_generator_attends_at_16_and_at_the_bottom():
    pytest.importorskip("diffusers")
    from diffusers.models.attention_processor import Attention

    net = LargeGenerator(image_shape=(1, 32, 32), channels=32, blocks_per_level=2)
    sides = []
    for module in net.modules():
        if isinstance(module, Attention):
            assert module.heads == 1
            module.register_forward_pre_hook(lambda _, args: sides.append(args[0].shape[-1]))
    net(*inputs(net, 1))
    assert sides == [16, 16, 4, 16]  # two blocks down, the middle, one for the level going up


def test_large_generator_depends_on_the_direction_of_its_noise_only():
    net = make_generator("large-16").double().eval()
    x, z = (batch.double() for batch in inputs(net, 2))
    torch.testing.assert_close(net(x, z), net(x, 3 * z), rtol=1e-6, atol=1e-8)
    assert (net(x, z) - net(x, -z)).abs().max() > 1e-6
    assert torch.equal(net.reference()(x), x)


def test_large_generator_has_no_running_state():
    net = make_generator("large-16")
    batches = inputs(net, 2)
    torch.testing.assert_close(net.train()(*batches), net.eval()(*batches))


def test_large_generator_names_the_extra_when_diffusers_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingDependency, match=r"wgflow\[image\]"):
        LargeGenerator(image_shape=(1, 16, 16), channels=32)


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        (32, [(8, 32), (16, 16), (32, 8), (32, 4)]),
        (64, [(16, 32), (32, 16), (32, 8), (32, 4)]),
        (256, [(16, 128), (32, 64), (32, 32), (32, 16), (32, 8), (32, 4)]),
    ],
)
def test_large_critic_levels(size, shapes):
    with torch.device("meta"):
        critic = LargeCritic(image_shape=(3, size, size), channels=8)
        h = critic.lift(torch.empty(1, 3, size, size))
    found = []
    for block in critic.blocks:
        h = block(h)
        found.append((h.shape[1], h.shape[2]))
    assert found == shapes


def test_large_critic_starts_almost_constant_and_learns_from_there():
    critic = make_critic("large-32")
    y = torch.randn(8, 3, 32, 32, generator=rng())
    v = critic(y)
    torch.testing.assert_close(v, critic.head.linear.bias.expand(8), rtol=0, atol=1e-3)
    v[0].backward()
    assert all(p.grad.abs().max() > 0 for p in critic.parameters())


def test_large_critic_block_starts_as_its_rescaled_skip_path():
    block = LargeCritic(image_shape=(1, 16, 16), channels=4).blocks[1]
    h = torch.randn(2, 4, 8, 8, generator=rng())
    torch.testing.assert_close(block(h), block.skip(FIRResample(up=False)(h)) / 2**0.5, rtol=0, atol=1e-3)


@pytest.mark.parametrize("n", range(1, 11))
def test_minibatch_deviation_for_every_batch_size(n):
    h = torch.randn(n, 3, 2, 5, generator=rng(n), dtype=torch.float64)
    out = MinibatchDeviation(4)(h)
    assert torch.equal(out[:, :3], h)
    groups = -(-n // 4)
    for j in range(groups):
        members = h[j::groups]
        assert len(members) <= 4
        expected = (members.var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(out[j::groups, 3], expected.expand(len(members), 2, 5))


def test_minibatch_deviation_of_equal_images_is_the_floor():
    out = MinibatchDeviation(4)(torch.ones(6, 2, 3, 3))
    torch.testing.assert_close(out[:, 2], torch.full((6, 3, 3), 1e-4))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 7, 10)])
def test_fir_resampling_equals_diffusers(shape):
    pytest.importorskip("diffusers")
    from diffusers.models.downsampling import downsample_2d
    from diffusers.models.upsampling import upsample_2d

    h = torch.randn(shape, generator=rng())
    torch.testing.assert_close(FIRResample(up=True)(h), upsample_2d(h, kernel=(1, 3, 3, 1)))
    torch.testing.assert_close(FIRResample(up=False)(h), downsample_2d(h, kernel=(1, 3, 3, 1)))


def test_replaced_resampling_leaves_the_diffusers_network_unchanged():
    diffusers = pytest.importorskip("diffusers")
    net = LargeGenerator(image_shape=(3, 16, 16), channels=32).eval()
    original = diffusers.UNet2DModel.from_config(net.unet.config).eval()
    original.load_state_dict(net.unet.state_dict())
    x, z = inputs(net, 2)
    expected = original(x, 0, class_labels=net.mapping(z)).sample.tanh()
    torch.testing.assert_close(net(x, z), expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: ToyGenerator(dim=0), "dim=0"),
        (lambda: ToyGenerator(noise_dim=-1), "noise_dim=-1"),
        (lambda: ToyCritic(width=1.5), r"width=1\.5"),
        (lambda: SmallGenerator(channels=0), "channels=0"),
        (lambda: SmallGenerator(image_shape=(3, 30, 30)), "size 30.* to 28 or 32"),
        (lambda: SmallGenerator(image_shape=(3, 32, 28)), r"\(3, 32, 28\)"),
        (lambda: SmallGenerator(image_shape=(32, 32)), r"\(32, 32\)"),
        (lambda: SmallGenerator(image_shape=(3, 4, 4)), r"\(3, 4, 4\)"),
        (lambda: SmallGenerator(latent_dim=2), "latent_dim=2"),
        (lambda: SmallCritic(image_shape=(1, 2, 2)), r"\(1, 2, 2\)"),
        (lambda: LargeGenerator(channels=48), "channels=48"),
        (lambda: LargeGenerator(multipliers=()), r"multipliers=\(\)"),
        (lambda: LargeGenerator(multipliers=(1, 0)), r"multipliers=\(1, 0\)"),
        (lambda: LargeGenerator(image_shape=(1, 28, 28)), r"\(1, 28, 28\).*multiple of 8"),
        (lambda: LargeGenerator(noise_dim=0), "noise_dim=0"),
        (lambda: LargeCritic(image_shape=(1, 4, 4)), r"\(1, 4, 4\)"),
        (lambda: LargeCritic(channels=None), "channels=None"),
        (lambda: ConvGenerator(channels=True), "channels=True"),
        (lambda: ConvCritic(channels=10**9), "channels=1000000000: expected a positive integer, at most"),
        (lambda: ConvCritic(image_shape=None), "image_shape="),
        (lambda: SmallCritic(image_shape="abc"), "image_shape="),
        (lambda: SmallGenerator(image_shape=(True, 16, 16)), "image_shape="),
        (lambda: LargeGenerator(multipliers=3), "multipliers=3"),
    ],
)
def test_bad_sizes_are_named(build, named):
    with pytest.raises(BadInput, match=named):
        build()


@pytest.mark.parametrize("case", SIZES)
def test_batches_of_another_shape_are_refused(case):
    generator, critic = make_generator(case), make_critic(case)
    batches = inputs(generator, 3)
    for wrong in range(len(batches)):
        changed = [b[..., :-1] if i == wrong else b for i, b in enumerate(batches)]
        with pytest.raises(BadInput, match=("x", "z")[wrong] + " has shape"):
            generator(*changed)
    with pytest.raises(BadInput, match="y has shape"):
        critic(torch.zeros(3, *SIZES[case][2])[..., :-1])


def test_conv_layers_halve_and_double_the_size():
    generator, critic = NETWORKS["conv"].generator(), NETWORKS["conv"].critic()
    # Weights by hand: 64 -> 64*7*7, transposed 4x4 64 -> 32 -> 1, two BatchNorms.
    assert count(generator) == 64 * 64 * 49 + (64 * 32 * 16 + 32) + (32 * 16 + 1) + 2 * 64 + 2 * 32
    # 4x4 1 -> 32 -> 64, 3x3 64 -> 128, linear from 128*7*7.
    assert count(critic) == (16 * 32 + 32) + (16 * 32 * 64 + 64) + (9 * 64 * 128 + 128) + (128 * 49 + 1)


def test_fine_layers_end_at_the_size_of_the_image():
    generator, critic = NETWORKS["fine"].generator(), NETWORKS["fine"].critic()
    # Weights by hand: 64 -> 64*7*7, 3x3 64 -> 32 -> 16 -> 1, a bias at the end, three BatchNorms.
    assert count(generator) == 64 * 64 * 49 + 9 * (64 * 32 + 32 * 16 + 16) + 1 + 2 * (64 + 32 + 16)
    # 3x3 1 -> 16, 4x4 16 -> 32 -> 64, 3x3 64 -> 128, linear from 128*7*7.
    wide = (16 * 16 * 32 + 32) + (16 * 32 * 64 + 64) + (9 * 64 * 128 + 128)
    assert count(critic) == (9 * 16 + 16) + wide + (128 * 49 + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_doubling_is_bilinear_interpolation(dtype: torch.dtype) -> None:
    h = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    bilinear = nn.functional.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(Doubled()(h), bilinear)


def test_no_layer_of_the_fine_generator_tells_even_pixels_from_odd_ones() -> None:
    # Constant features stay constant away from the border, whatever the weights; a transposed convolution of stride 2 breaks that.
    def spread(net: nn.Module, width: int) -> float:
        layers = [m for m in net.head if not isinstance(m, nn.BatchNorm2d)]
        h = nn.Sequential(*layers)(torch.ones(1, width, 7, 7))
        return float(h.detach()[0, 0, 12:16, 12:16].std())

    torch.manual_seed(0)
    assert spread(NETWORKS["fine"].generator(), 64) < 1e-6
    assert spread(NETWORKS["conv"].generator(), 64) > 1e-3


def test_table_of_networks():
    assert list(NETWORKS) == ["toy", "conv", "fine", "small", "large"]
    for network in itertools.chain(*NETWORKS.values()):
        assert issubclass(network, nn.Module)
