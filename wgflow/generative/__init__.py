"""The generative layer: image data, networks, training, sampling and metrics on the library's own driver."""

from wgflow.generative.augment import DiffAugment
from wgflow.generative.autoencoder import AutoencoderSpace
from wgflow.generative.catalogue import image_methods
from wgflow.generative.data import ImageData, ImageSet, load_images, to_uint8, to_unit
from wgflow.generative.distances import energy, sinkhorn
from wgflow.generative.evaluate import evaluate, load_generator
from wgflow.generative.latent_space import LatentSpace
from wgflow.generative.metrics.fid import FID, ReferenceStats
from wgflow.generative.monitor import Monitor
from wgflow.generative.nets import NETWORKS, NetworkPair
from wgflow.generative.recipe import RECIPES, Recipe
from wgflow.generative.runtime import Runtime, Sharded, runtime
from wgflow.generative.sample import class_rows, of_class, sample, save_grid
from wgflow.generative.train import fit, train

__all__ = [
    "FID",
    "NETWORKS",
    "RECIPES",
    "AutoencoderSpace",
    "DiffAugment",
    "ImageData",
    "ImageSet",
    "LatentSpace",
    "Monitor",
    "NetworkPair",
    "Recipe",
    "ReferenceStats",
    "Runtime",
    "Sharded",
    "class_rows",
    "energy",
    "evaluate",
    "fit",
    "image_methods",
    "load_generator",
    "load_images",
    "of_class",
    "runtime",
    "sample",
    "save_grid",
    "sinkhorn",
    "to_uint8",
    "to_unit",
    "train",
]
