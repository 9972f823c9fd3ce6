"""Numbers for images: Fréchet distances, and the features that they are in."""

from wgflow.generative.metrics.cifar_resnet import CifarResNetFeatures
from wgflow.generative.metrics.features import FeatureExtractor, ModuleFeatures, RandomConvFeatures
from wgflow.generative.metrics.fid import FID, reference_stats
from wgflow.generative.metrics.frechet import ReferenceStats, frechet_distance
from wgflow.generative.metrics.image_features import ImageFeatures
from wgflow.generative.metrics.inception import InceptionFeatures

__all__ = [
    "FID",
    "CifarResNetFeatures",
    "FeatureExtractor",
    "ImageFeatures",
    "InceptionFeatures",
    "ModuleFeatures",
    "RandomConvFeatures",
    "ReferenceStats",
    "frechet_distance",
    "reference_stats",
]
