"""Prose is in American spelling: pages and docstrings, but for names in code and for titles of cited works."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md"), *ROOT.glob("*.md")])
MODULES = sorted([*(ROOT / "wgflow").rglob("*.py"), *(ROOT / "examples").glob("*.py")])

_VERBS = (
    "normal regular minim maxim optim initial discret real general penal parametr parameter organ recogn summar memor visual central "
    "local linear tensor amort character util emphas standard special serial stabil symmetr random vector quant factor diagonal "
    "orthogonal synchron categor custom final formal harmon ideal modern neutral polar prior rational sensit"
)
BRITISH = re.compile(
    rf"\b(?:\w*(?:{'|'.join(_VERBS.split())})is(?:e[drs]?|ers|ing|ations?|able)"
    r"|\w*(?:colour|behaviour|favour|neighbour|honour|labour|flavour|rigour|vigour)\w*"
    r"|\w*cent(?:res?|red|ring)|fibres?|metres?|licences?|defences?|offences?"
    r"|\w*(?:model|label|travel|cancel|signal|channel|level|total)l(?:ed|ing|ers?)"
    r"|greys?|greyscale|artefacts?|whilst|towards|catalogues?|amongst|learnt|spelt|programmes?|judgements?|ageing|fulfil|analys(?:ed?|ing|ers?))\b",
    re.IGNORECASE,
)

# What is not prose, in a page and in a docstring. Both have code, titles in italics and names with underscores.
_BOTH = r"``[^`\n]+``|`[^`\n]*`|(?<![\w*])\*[A-Z](?:(?!\n *\n)[^*])*\*(?![\w*])|\w*_\w*|https?://\S+"
_PAGE = re.compile(rf"^```.*?^```|\]\([^)]*\)|^\([\w-]+\)=$|{_BOTH}", re.MULTILINE | re.DOTALL)
_DOCSTRING = re.compile(
    rf"^ *>>> .*?(?=^ *$|\Z)|^ *[\w*\\, ]+ : .*?$|^ *\w+(?:, \w+)+$|{_BOTH}", re.MULTILINE | re.DOTALL
)


def blanked(text: str, kind: re.Pattern[str]) -> str:
    """Return a text of the same length with spaces for what is not prose."""
    return kind.sub(lambda m: re.sub(r"\S", " ", m[0]), text)


def docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a module, those below attributes too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_is_in_american_spelling(page):
    assert not BRITISH.findall(blanked(page.read_text(encoding="utf-8"), _PAGE))


@pytest.mark.parametrize("module", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_docstrings_are_in_american_spelling(module):
    assert not [word for text in docstrings(module) for word in BRITISH.findall(blanked(text, _DOCSTRING))]


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*.py")), ids=lambda p: p.name)
def test_comments_of_examples_are_in_american_spelling(example):
    lines = re.findall(
        r"^# .*$", example.read_text(encoding="utf-8"), re.MULTILINE
    )  # the text of a page of the gallery
    assert not BRITISH.findall(blanked("\n".join(lines), _PAGE))


@pytest.mark.parametrize(
    "word", ["normalised", "Regularisation", "colours", "uncentred", "modelling", "minimiser", "licence"]
)
def test_a_british_word_is_found(word):
    assert BRITISH.findall(f"The {word} one.") == [word]


@pytest.mark.parametrize(
    "word", ["noise", "raised", "otherwise", "pointwise", "modeled", "cancellation", "parameters", "gray"]
)
def test_an_american_word_is_not(word):
    assert not BRITISH.findall(f"The {word} one.")
