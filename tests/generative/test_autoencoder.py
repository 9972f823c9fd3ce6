"""Training among the latents of a frozen pair that a person brings."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from wgflow import BadInput
from wgflow.generative import AutoencoderSpace, ImageData, Recipe, autoencoder, evaluate, load_generator, sample, train
from wgflow.generative.autoencoder import LATENTS
from wgflow.generative.latent_space import LATENT_SPACE

pytest.importorskip("safetensors")
pytest.importorskip("torchvision")


class Fake(nn.Module):
    """A pair with the interface of diffusers' AutoencoderKL that keeps means of 2 x 2 pixels, in four channels of other units."""

    def __init__(self):
        super().__init__()
        self.mixed = nn.Parameter(torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [1, 1, 1]]))

    def encode(self, x):
        mode = 5 + torch.einsum("kc,nchw->nkhw", self.mixed, nn.functional.avg_pool2d(x, 2))
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: mode))

    def decode(self, z):
        x = (z[:, :3] - 5) / torch.tensor([1.0, 2, 3])[:, None, None]
        return SimpleNamespace(sample=x.repeat_interleave(2, -1).repeat_interleave(2, -2))


def pair() -> Fake:
    return Fake()


def not_a_pair() -> nn.Module:
    return nn.Linear(1, 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8))
    return path


def recipe(images: Path, **changes) -> Recipe:
    plain = dict(data=str(images), flip=True, autoencoder=f"{__name__}:pair", channels=4, batch=4, sinkhorn_n=4)
    return Recipe(**(plain | dict(num_steps=2, first_iters=3, iters=2, evaluate_every=3) | changes))


def test_codes_of_the_training_images_fill_the_range_of_a_network_and_decode_to_their_images():
    levels = torch.randint(256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    levels = levels[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)
    data = ImageData(levels, flip=True)
    space, codes = AutoencoderSpace.fit(Fake(), data)
    assert codes.shape == (80, 4, 4, 4)
    torch.testing.assert_close(codes.amax((0, 2, 3)), torch.ones(4))
    torch.testing.assert_close(codes.amin((0, 2, 3)), -torch.ones(4))
    x = data.images / 127.5 - 1
    torch.testing.assert_close(space.decode(codes[:40]), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(space.decode(codes[40:]), x.flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(space.encode(x), codes[:40], atol=1e-5, rtol=0)
    assert not space.decode(codes[:2].requires_grad_()).requires_grad


def test_the_autoencoder_of_diffusers_is_such_a_pair():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        norm_num_groups=2,
    )
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8)
    space, codes = AutoencoderSpace.fit(vae, ImageData(images))
    assert codes.shape == (3, 4, 8, 8) == (3, *space.event_shape)
    raw = vae.encode(images / 127.5 - 1).latent_dist.mode()
    torch.testing.assert_close(space.decode(codes), vae.decode(raw).sample.clamp(-1, 1), atol=1e-4, rtol=1e-4)


def test_a_training_goes_on_bit_for_bit_and_samples_images_of_full_size(images, tmp_path, monkeypatch, cut):
    encoded, seen = autoencoder._encoded, []
    monkeypatch.setattr(autoencoder, "_encoded", lambda pair, x: (seen.append(len(x)), encoded(pair, x))[1])
    whole = tmp_path / "whole"
    train(recipe(images), whole, device="cpu", progress=False)
    assert sum(seen) == 40, "every image is encoded once on either side"
    cut(recipe(images), tmp_path / "cut", 3)
    seen.clear()
    train(recipe(images), tmp_path / "cut", device="cpu", progress=False)
    assert not seen, "the codes are those of the folder"
    for name in ("generator.safetensors", "metrics.csv", LATENTS, LATENT_SPACE):
        assert (tmp_path / "cut" / name).read_bytes() == (whole / name).read_bytes()

    with pytest.raises(BadInput, match="names code to run: autoencoder="):
        load_generator(whole, device="cpu")
    generator = load_generator(whole, device="cpu", allow_code=True)
    drawn = sample(generator, 3)
    assert drawn.shape == (3, 3, 32, 32)
    assert torch.equal(drawn[..., ::2, ::2], drawn[..., 1::2, 1::2]), "decoded: pairs of pixels are equal"
    torch.testing.assert_close(sample(generator, 2, batch=1), drawn[:2], atol=1e-5, rtol=0)
    options = dict(n=8, features="random-conv", memorization=True, device="cpu", allow_code=True)
    assert {"energy_distance", "frechet", "pixel_nn_ratio"} <= evaluate(whole, **options).keys()


def test_a_cloud_of_codes_moves_and_is_shown_as_images(images, tmp_path):
    flow = Recipe(
        data=str(images), autoencoder=f"{__name__}:pair", method="sliced_w_flow", num_steps=2, particles=6, sinkhorn_n=4
    )
    solution = train(flow, tmp_path / "r", device="cpu", progress=False)
    assert solution.measure.x.shape == (6, 4, 16, 16)
    assert sample(load_generator(tmp_path / "r", device="cpu", allow_code=True), 2).shape == (2, 3, 32, 32)


def test_codes_of_other_images_or_of_other_weights_are_not_gone_on_with(images, tmp_path, monkeypatch):
    copy, folder = tmp_path / "images.npy", tmp_path / "r"
    shutil.copy(images, copy)
    train(recipe(copy, num_steps=1, first_iters=1, iters=1), folder, device="cpu", progress=False)
    longer = recipe(copy, num_steps=2, first_iters=1, iters=1)
    other = "codes of other images, or by other weights of the autoencoder"
    np.save(copy, np.load(images)[::-1])
    with pytest.raises(BadInput, match=other):
        train(longer, folder, device="cpu", progress=False)
    shutil.copy(images, copy)
    start = Fake.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fake, "__init__", lambda self: (start(self), self.mixed.data.mul_(2))[0])
        with pytest.raises(BadInput, match=other):
            train(longer, folder, device="cpu", progress=False)
    assert train(longer, folder, device="cpu", progress=False).state.k == 2


def test_a_damaged_folder_is_named(images, tmp_path):
    folder = tmp_path / "r"
    train(recipe(images, num_steps=1, first_iters=1), folder, device="cpu", progress=False)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / LATENT_SPACE).write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot be read as safetensors"):
        load_generator(copy, device="cpu", allow_code=True)
    shutil.copy(folder / LATENTS, copy / LATENT_SPACE)
    with pytest.raises(BadInput, match="is not the latent space of an autoencoder"):
        load_generator(copy, device="cpu", allow_code=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vae", "expected package.module:NAME of a function that returns the pair"),
        ("os:getcwd", "an autoencoder is an nn.Module with encode"),
        ("os:environ", "is not a function without arguments"),
        ("no_such_module:x", "cannot be imported"),
        (f"{__name__}:not_a_pair", "an autoencoder is an nn.Module with encode"),
    ],
)
def test_what_is_no_pair(name, message, images, tmp_path):
    with pytest.raises(BadInput, match=message):
        train(recipe(images, autoencoder=name), tmp_path / "r", device="cpu", progress=False)
    assert not (tmp_path / "r").exists()


def test_pairs_that_return_something_else(monkeypatch):
    data = ImageData(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
    space, codes = AutoencoderSpace.fit(Fake(), data)
    assert bool(codes.isfinite().all()), "images of one color have codes of no width"
    monkeypatch.setattr(Fake, "encode", lambda self, x: x)
    with pytest.raises(BadInput, match=r"expected an object with latent_dist.mode\(\)"):
        space.encode(torch.zeros(1, 3, 8, 8))
    monkeypatch.setattr(Fake, "decode", lambda self, z: z)
    with pytest.raises(BadInput, match=r"expected an object with the images as \.sample"):
        space.decode(codes)
    nan = SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: torch.full((4, 4, 4, 4), torch.nan)))
    monkeypatch.setattr(Fake, "encode", lambda self, x: nan)
    with pytest.raises(BadInput, match="codes that are not finite"):
        AutoencoderSpace.fit(Fake(), data)


def test_a_flow_lives_in_one_space():
    with pytest.raises(BadInput, match="a flow lives in one space"):
        Recipe(pca=3, autoencoder="a:b")
