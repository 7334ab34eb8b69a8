# SPDX-License-Identifier: Apache-2.0
"""The tree is the architecture: ranks, lengths, tests, public names."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jaxbn
import jaxbn.conversion
import jaxbn.linen
import jaxbn.nnx
import jaxbn.population

ROOT = Path(__file__).parent.parent
RANKS = {
    "_types": 0,
    "_checks": 1,
    "_sync_checks": 2,
    "_stats_checks": 2,
    "_collectives": 3,
    "_lift": 4,
    "_statistics": 5,
    "_running_stats": 5,
    "_normalize": 5,
    "_renorm": 5,
    "_complex": 6,
    "_virtual_batches": 6,
    "_derivative": 6,
    "_moments": 7,
    "_functional": 7,
    "_record": 8,
    "_layer": 9,
    "linen": 10,
    "nnx": 10,
    "conversion": 10,
    "_progress": 10,
    "_population_checks": 10,
    "_population_pass": 10,
    "_population": 11,
    "_population_linen": 12,
    "_population_nnx": 12,
    "population": 13,
    "__init__": 14,
}
WITH_FLAX = {"linen", "nnx", "conversion", "_population_linen", "_population_nnx"}
SOURCES = sorted(
    p
    for folder in ("jaxbn", "experiments", "configs", "tests")
    for p in (ROOT / folder).rglob("*.py")
)
by_source = pytest.mark.parametrize(
    "path", SOURCES, ids=lambda p: str(p.relative_to(ROOT))
)
PUBLIC = [
    *(v for k, v in vars(jaxbn).items() if k[0] != "_" and callable(v)),
    jaxbn.linen.BatchNorm,
    jaxbn.nnx.BatchNorm,
    jaxbn.linen.BatchRenorm,
    jaxbn.nnx.BatchRenorm,
    jaxbn.conversion.to_linen,
    jaxbn.conversion.from_linen,
    jaxbn.population.estimate_linen,
    jaxbn.population.estimate_nnx,
]


def imports(path: Path) -> set[str]:
    """The dotted names of the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize(
    "path", sorted((ROOT / "jaxbn").glob("*.py")), ids=lambda p: p.stem
)
def test_imports_lower_ranks_only(path):
    rank = RANKS[path.stem]
    for name in imports(path):
        if name.startswith("jaxbn."):
            assert RANKS[name.removeprefix("jaxbn.")] < rank, name
        assert name.split(".")[0] not in ("experiments", "configs", "tests")
        assert not name.startswith("flax") or path.stem in WITH_FLAX


@by_source
def test_who_imports_whom(path):
    folder = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        parts = name.split(".")
        if folder == "configs":
            assert parts[0] != "experiments" or name == "experiments.config"
        if folder in ("configs", "experiments"):
            assert parts[0] != "tests"
            assert not (parts[0] == "jaxbn" and parts[-1].startswith("_")), name


@by_source
def test_is_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert code_lines(node) <= 40, node.name


def code_lines(function: ast.FunctionDef) -> int:
    """Lines of statements, without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_every_module_has_its_test():
    tests = {p.stem for p in (ROOT / "tests").glob("test_*.py")}
    # Without functions to call; or said in full by what users call.
    without = {"__init__", "_types", "_lift", "_sync_checks", "_stats_checks", "_layer"}
    without |= {"_record", "_population_checks"}
    for module in set(RANKS) - without:
        assert f"test_{module.lstrip('_')}" in tests


def test_import_needs_no_flax():
    code = "import sys, jaxbn; sys.exit('flax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("public", PUBLIC, ids=lambda p: p.__name__)
def test_public_names_are_documented(public):
    text = inspect.getdoc(public) or ""
    sections = {"Example:", "References:"}
    if inspect.isfunction(public):
        sections |= {"Args:", "Returns:", "Raises:"}
    if issubclass(type(public), type) and issubclass(public, tuple):
        sections = {"Attributes:"}
    assert all(s in text for s in sections), sections
    if "momentum" in inspect.signature(public).parameters:
        assert "momentum * old + (1 - momentum) * batch" in text
        assert "PyTorch" in text


@pytest.mark.parametrize(
    "public", [p for p in PUBLIC if inspect.isfunction(p)], ids=lambda p: p.__name__
)
def test_arrays_are_positional_and_all_else_is_keyword_only(public):
    for name, parameter in inspect.signature(public).parameters.items():
        assert parameter.kind in (
            parameter.KEYWORD_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
        )
        if parameter.kind == parameter.POSITIONAL_OR_KEYWORD:
            array = ("x", "mean", "var", "scale", "bias")
            modules = ("module", "variables", "model", "apply", "forward", "batches")
            assert name in (*array, "stats", "moments", "num_features", *modules)
