"""Configuration of the documentation; it builds, and its pages are read, without a network."""

import os
import sys
import warnings
from pathlib import Path

import torch

import wgflow

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
torch.set_num_threads(1)  # the numbers in the gallery are the same on every machine with the same torch

project = "wgflow"
author = "The wgflow developers"
project_copyright = "The wgflow developers"
version = release = wgflow.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "wgflow_docs",
    "wgflow_records",
    "wgflow_truth",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["wgflow.css"]
mathjax_path = "mathjax/tex-chtml.js"  # copied by wgflow_docs from the package sphinx-mathjax-offline

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are in the docstrings; annotations hold the rules that arguments are checked by
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_ivar = True  # attributes that are properties are then described once
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "alpha"
bibtex_reference_style = "author_year"  # (Choi et al., 2024), not [CCK24]

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"[\\/]plot_",
    "ignore_pattern": r"^(?!plot_)",  # long trainings are neither run nor shown here
    "backreferences_dir": None,
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 5,
    "within_subsection_order": "FileNameSortKey",
}
# matplotlib says so where there is no screen; the gallery keeps the pictures all the same.
warnings.filterwarnings("ignore", message=".*non-interactive.*cannot be shown.*")

html_theme = "furo"
html_title = f"wgflow {release}"
html_theme_options = {"navigation_with_keys": True}
if repository := os.environ.get("WGFLOW_REPOSITORY"):  # such as https://github.com/OWNER/wgflow: "edit this page"
    html_theme_options |= {
        "source_repository": repository,
        "source_branch": os.environ.get("WGFLOW_BRANCH", "main"),
        "source_directory": "docs/",
    }
