"""Labels travel with data and latents, behind the points."""

import pytest
import torch
from _exact import rng

from wgflow import BadInput, Balanced, Dataset, Labelled, LabelledLatent, Paired, Particles, Smoothed, StandardNormal
from wgflow.generative import ImageData, load_images

X = torch.arange(12.0).reshape(6, 2)
Y = torch.tensor([0, 1, 2, 0, 1, 2])
DATA = Dataset(X, labels=Y)


def images() -> ImageData:
    pixels = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 2, 2)
    return ImageData(pixels, labels=torch.tensor([0, 1, 1, 0, 1]))


def test_every_point_is_drawn_with_its_own_label() -> None:
    points = Labelled(DATA).draw(200, rng(0)).x
    assert points.shape == (200, 5)
    number = (points[:, 0] / 2).long()  # X[i, 0] = 2 i
    assert torch.equal(points[:, 2:], torch.eye(3)[Y[number]])
    assert set(number.tolist()) == set(range(6))


def test_an_image_is_flat_before_its_label() -> None:
    p = Labelled(images()).take(torch.tensor([3, 4]), rng(0)).x
    assert torch.equal(p[:, 4:], torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert torch.equal(p[:, :4], images().take(torch.tensor([3, 4]), rng(0)).x.flatten(1))


def test_noise_is_put_on_points_and_not_on_labels() -> None:
    noisy = Labelled(Smoothed(DATA, lambda k: 0.5 + k)).at(2, 0.0)
    x = noisy.draw(4000, rng(0)).x
    assert set(x[:, 2:].flatten().tolist()) == {0.0, 1.0}
    number = x[:, 2:].argmax(1)
    means = torch.stack([x[number == c, :2].mean(0) for c in range(3)])
    torch.testing.assert_close(means, torch.stack([X[DATA.labels == c].mean(0) for c in range(3)]), rtol=0, atol=0.4)


def test_no_noise_comes_behind_the_points() -> None:
    """The noise of a method is put on a target that is labelled already."""
    for measure in (Labelled(DATA), Balanced(Labelled(DATA)), Paired(DATA, StandardNormal(3))):
        noisy = Smoothed(measure, lambda k: 5.0).draw(30, rng(0)).x
        plain = measure.draw(30, rng(0)).x
        assert torch.equal(noisy[:, 2:], plain[:, 2:])
        assert not bool((noisy[:, :2] == plain[:, :2]).any())
        assert Smoothed(measure, lambda k: 5.0).behind == 3


def test_a_latent_of_data_has_their_classes_as_often() -> None:
    data = Dataset(torch.zeros(4, 1), labels=torch.tensor([0, 1, 1, 1]))
    z = Labelled(data).latent(StandardNormal(3)).draw(4000, rng(0)).x
    assert z.shape == (4000, 5)
    assert z[:, 4].mean().item() == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 4000) ** 0.5)
    assert torch.equal(z[:, 3:].sum(1), torch.ones(4000))


def test_a_latent_of_one_class_has_that_label_only() -> None:
    z = LabelledLatent(StandardNormal(2), 3)
    assert torch.equal(z.of_class(2).draw(50, rng(0)).x[:, 2:].argmax(1), torch.full((50,), 2))
    assert set(z.draw(200, rng(0)).x[:, 2:].argmax(1).tolist()) == {0, 1, 2}


def test_weights_of_a_latent_are_kept() -> None:
    nodes = Particles(X, torch.arange(6.0))
    assert torch.equal(LabelledLatent(nodes, 2).draw(6, rng(0)).w, nodes.w)


@pytest.mark.parametrize("data", [DATA, images()])
def test_the_points_of_one_class(data: Dataset | ImageData) -> None:
    one = data.of_class(1)
    assert one.num_atoms == int((data.labels == 1).sum())
    whole = data.take(torch.arange(data.num_atoms), rng(0)).x
    assert torch.equal(one.take(torch.arange(one.num_atoms), rng(0)).x, whole[data.labels == 1])


def test_weights_follow_the_points_of_a_class() -> None:
    weighted = Dataset(X, torch.arange(6.0), Y)
    assert torch.equal(weighted.of_class(0).log_w, torch.tensor([0.0, 3.0]))


def test_labels_change_no_draw_of_the_points_alone() -> None:
    assert torch.equal(DATA.draw(9, rng(0)).x, Dataset(X).draw(9, rng(0)).x)
    fashion = load_images("fashion-mnist-10k")
    plain, labelled = ImageData(fashion.images, True), ImageData(fashion.images, True, fashion.labels)
    assert torch.equal(plain.draw(9, rng(0)).x, labelled.draw(9, rng(0)).x)
    assert torch.equal(labelled.to("cpu").labels, fashion.labels)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Labelled(Dataset(X)), "its points have no labels"),
        (lambda: Labelled(StandardNormal(2)), "its points have no labels"),
        (lambda: Labelled(Dataset(X, torch.zeros(6), Y)), "weights"),
        (lambda: Labelled(Dataset(X, labels=Y + (Y == 1))), "no point of class 1"),
        (
            lambda: Labelled(Dataset(X, labels=Y + 10**15 * (Y == 2))),
            r"classes 0 to 1000000000000002 and no point of class 2, 3, .*, \.\.\.: number",
        ),
        (lambda: Labelled(Dataset(X, labels=Y - 1)), "a label -1"),
        (lambda: Dataset(X, labels=Y[:5]), r"int64 of shape \(6,\), one a point"),
        (lambda: Dataset(X, labels=Y.float()), r"int64 of shape \(6,\), one a point, got torch.float32"),
        (lambda: ImageData(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), labels=Y), "one an image"),
        (lambda: DATA.of_class(7), r"no point of class 7: its classes are 0, 1, 2"),
        (lambda: Dataset(X).of_class(0), "no labels"),
        (lambda: LabelledLatent(StandardNormal(2), 0), "classes=0"),
        (lambda: LabelledLatent(StandardNormal(2), 2, torch.ones(3) / 3), r"shape \(2,\)"),
        (lambda: LabelledLatent(StandardNormal(2), 2, torch.ones(2)), "sum to 1"),
        (lambda: LabelledLatent(StandardNormal(2), 2).of_class(2), "class 2: the classes are 0 to 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(make, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make()
