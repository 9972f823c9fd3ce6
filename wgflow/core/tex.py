"""Formulas of docstrings as plain text for a terminal: TeX and reStructuredText without their marks."""

import re

_SYMBOLS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "varepsilon": "ε", "zeta": "ζ", "eta": "η", "theta": "θ",
    "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ",
    "phi": "φ", "varphi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω", "Delta": "Δ", "Lambda": "Λ", "Sigma": "Σ",
    "ell": "ℓ", "nabla": "∇", "partial": "∂", "int": "∫", "iint": "∬", "sum": "Σ", "prod": "∏", "infty": "∞", "top": "T",
    "le": "≤", "ge": "≥", "ne": "≠", "sim": "~", "propto": "∝", "to": "→", "mapsto": "↦", "leftarrow": "←", "in": "∈",
    "ni": "∋", "circ": "∘", "cdot": "·", "cdots": "...", "dots": "...", "ldots": "...", "otimes": "⊗", "times": "×",
    "langle": "⟨", "rangle": "⟩", "lVert": "‖", "rVert": "‖", "lvert": "|", "rvert": "|", "mid": "|", "star": "*",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "quad": " ", "qquad": "  ", "big": "", "bigl": "", "bigr": "", "Big": "",
    "Bigl": "", "Bigr": "", "left": "", "right": "", "limits": "", "pm": "±",
}  # fmt: skip
_SPACE = "\0"
"""Stands for a space that the formula asks for."""
_ACCENTS = {"bar": "\u0304", "hat": "\u0302", "dot": "\u0307"}
_SQUARE = {"^2": "²", "^3": "³", "^d": "ᵈ", "^{-1}": "⁻¹", "^{1/2}": "^½"}
_OPERATOR = r"\\(?:nabla|log)|\bE|\*"
_ARGUMENT = r"\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\\[A-Za-z]+|[^\s{\\]))"


def plain(text: str) -> str:
    """Return what a docstring says without roles, quotes of code and TeX: Greek letters and signs as characters."""
    text = re.sub(r"^( *)\.\. math::(.*?)(?=\n\s*\n|\Z)", _block, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r":math:`([^`]*)`", lambda m: formula(m[1]), text)
    return re.sub(r"(?::\w+:)?`+~?([^`]*)`+", r"\1", text).replace("\\*", "*").replace("\\_", "_")


def _block(found: re.Match[str]) -> str:
    """Return a formula that stands alone: a line each."""
    lines = re.split(r"\\\\\\\\\s*", " ".join(found[2].split()))
    return "\n".join(f"{found[1]}    {formula(line)}" for line in lines)


def formula(tex: str) -> str:
    r"""Return a formula of TeX as characters.

    Examples
    --------
    >>> formula(r"F(\rho)=\tfrac12\int|x|^2\,d\rho")
    'F(ρ)=1/2 ∫|x|² dρ'
    >>> formula(r"v=-\nabla\frac{\delta F}{\delta\rho}(x)")
    'v=-∇(δF/δρ)(x)'
    """
    text = re.sub(r"\\[,:; ]", _SPACE, tex).replace("\\!", "").replace("&", "")
    text = re.sub(rf"(?:({_OPERATOR})[\s\0]*)?\\[td]?frac{_ARGUMENT}{_ARGUMENT}", _fraction, text)
    text = re.sub(rf"\\sqrt{_ARGUMENT}", lambda m: f"√{_grouped(m[1] or m[2])}", text)
    text = re.sub(rf"\\(bar|hat|dot){_ARGUMENT}", lambda m: f"{m[2] or m[3]}{_ACCENTS[m[1]]}", text)
    text = re.sub(rf"\\(?:mathcal|mathbb|mathbf|tilde){_ARGUMENT}", r"\1\2", text)
    text = re.sub(rf"\\(?:operatorname\*?|mathrm|text){_ARGUMENT}", r" \1\2 ", text)
    text = re.sub(r"\\([A-Za-z]+) ?", lambda m: _SYMBOLS.get(m[1], f" {m[1]} "), text)
    for mark, sign in _SQUARE.items():
        text = re.sub(rf"{re.escape(mark)}(?![\w'])", sign, text)
    text = re.sub(r"([_^])\{([^{}]{1,2}|\w+)\}", r"\1\2", text)
    text = text.replace("{", "(").replace("}", ")") if re.search(r"[_^]\{", text) else re.sub(r"(?<!\\)[{}]", "", text)
    text = re.sub(r" +", " ", text.replace("\\|", "‖").replace("\\", ""))
    text = re.sub(r"(?<=[(\[⟨|=_^]) | (?=[_^()\]⟩,'·²³}])", "", text)
    return re.sub(r"  +", " ", text.replace(_SPACE, " ")).strip()


def _fraction(found: re.Match[str]) -> str:
    """Return a quotient, in parentheses where an operator before it would seem to act on what stands above alone."""
    operator, *parts = found.groups(default="")
    quotient = f"{_grouped(parts[0] or parts[1])}/{_grouped(parts[2] or parts[3])}"
    return f"{operator}({quotient})" if operator else f"{quotient} "


def _grouped(text: str) -> str:
    """Return a part in parentheses where it is more than one number, letter or variation of a letter."""
    return text if re.fullmatch(r"(?:\\(?:delta|partial) ?)?(?:\\[A-Za-z]+|\w)(?:_\w)?|\d+", text) else f"({text})"
