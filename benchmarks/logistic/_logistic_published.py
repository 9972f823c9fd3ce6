"""Published results of Bayesian logistic regression."""

from typing import Any

SOURCES = {
    "icnn_jko": "Mokrov et al. 2021, Large-Scale Wasserstein Gradient Flows: accuracy, test log-likelihood, seconds of training "
    "on a GPU; one split, from the result files of its repository",
    "svgd": "Liu and Wang 2016, as printed by Mokrov et al. 2021",
    "fan": "Fan et al. 2022, Variational Wasserstein Gradient Flow",
    "sw_jko": "Bonet et al. 2022, Efficient Gradient Flows in Sliced-Wasserstein Space: accuracy, sd over 5 runs on one split, "
    "seconds",
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "german": {"icnn_jko": (0.670, -0.599, 3965), "svgd": (0.65, -0.60), "sw_jko": (0.680, 0.005, 83)},
    "diabetis": {"icnn_jko": (0.773, -0.451, 7618), "svgd": (0.78, -0.46), "sw_jko": (0.778, 0.003, 122)},
    "twonorm": {"icnn_jko": (0.982, -0.058, 10116), "svgd": (0.98, -0.062), "sw_jko": (0.981, 0.001, 301)},
    "ringnorm": {"icnn_jko": (0.740, -0.499, 1971), "svgd": (0.74, -0.50), "sw_jko": (0.741, 0.001, 83)},
    "banana": {"icnn_jko": (0.561, -0.691, 1102), "svgd": (0.54, -0.69), "sw_jko": (0.559, 0.011, 67)},
    "splice": {
        "icnn_jko": (0.835, -0.366, 5091),
        "svgd": (0.85, -0.355),
        "fan": (0.84, -0.38),
        "sw_jko": (0.850, 0.003, 114),
    },
    "waveform": {
        "icnn_jko": (0.781, -0.487, 1897),
        "svgd": (0.765, -0.465),
        "fan": (0.785, -0.455),
        "sw_jko": (0.776, 0.001, 121),
    },
    "image": {
        "icnn_jko": (0.818, -0.444, 3794),
        "svgd": (0.815, -0.44),
        "fan": (0.866, -0.394),
        "sw_jko": (0.821, 0.004, 72),
    },
}
