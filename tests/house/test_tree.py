# SPDX-License-Identifier: Apache-2.0
"""The tree is the architecture: ranks, doors, tests that mirror it, public names."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxbn
import jaxbn._core
import jaxbn.conversion
import jaxbn.convert
import jaxbn.folding
import jaxbn.linen
import jaxbn.nnx
import jaxbn.population

ROOT = Path(__file__).parents[2]
LIBRARY = [  # each imports from itself and from those before it
    "_checks",
    "_core",
    "_functions",
    "_flax",
    "_surgery",
    "_convert",
    "_population",
    "_accumulation",
    "_diagnosis",
    "_folding",
]
DOORS = ("linen", "nnx", "conversion", "convert", "population", "folding")
LABORATORY = [  # likewise
    "errors",
    "config",
    "data",
    "models",
    "run",
    "train",
    "hardware",
    "lab",
    "bench",
    "cli",
    "__main__",
]
WITH_FLAX = (
    "_accumulation/",
    "_convert/",
    "_diagnosis/linen.py",
    "_diagnosis/nnx.py",
    "_flax/",
    "_population/linen.py",
    "_population/nnx.py",
    "_surgery/",
)
PUBLIC = [
    *(v for k, v in vars(jaxbn).items() if k in dir(jaxbn) and callable(v)),
    *(getattr(door, name) for door in map(jaxbn.__getattr__, DOORS)
      for name in door.__all__ if name != "PopulationReport"),
]  # fmt: skip


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """The path below the root and the tree of each Python file."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imports(tree: ast.Module) -> set[str]:
    """The dotted names of the modules that a file imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found.add(node.module or "")
    return found


def breaches(package: str, ranks: list[str]) -> list[str]:
    """Imports of a package's own rooms that do not lead down."""
    found = []
    for path, tree in sources(package):
        room = path.split("/")[1].removesuffix(".py")
        if room not in ranks:  # a door, or the package itself
            continue
        for name in imports(tree):
            other = name.split(".")[1] if name.startswith(f"{package}.") else room
            if other not in ranks or ranks.index(other) > ranks.index(room):
                found.append(f"{path} imports {name}")
    return found


def test_imports_lead_down():
    assert not breaches("jaxbn", LIBRARY)
    assert not breaches("experiments", LABORATORY)


def test_every_room_has_a_rank():
    def rooms(package: str) -> set[str]:
        paths = (path for path, _ in sources(package))
        return {path.split("/")[1].removesuffix(".py") for path in paths}

    assert rooms("jaxbn") == {*LIBRARY, *DOORS, "__init__"}
    assert rooms("experiments") == {*LABORATORY, "__init__"}
    at_root = [p for p in (ROOT / "experiments").iterdir() if p.is_file()]
    assert len(at_root) <= 4


def test_who_imports_whom():
    for path, tree in sources("jaxbn", "experiments", "configs", "tests"):
        for name in imports(tree):
            first, *_ = parts = name.split(".")
            if path.startswith("jaxbn/"):
                assert first not in ("experiments", "configs", "tests"), path
                room = path.removeprefix("jaxbn/")
                assert first != "flax" or room.startswith(WITH_FLAX), path
            if path.startswith("configs/"):
                assert first != "experiments" or name == "experiments.config", path
            if path.startswith(("configs/", "experiments/")):
                assert first != "tests", path
                private = any(part.startswith("_") for part in parts)
                assert not (first == "jaxbn" and private), path


def test_doors_hold_no_code():
    for name in DOORS:
        tree = ast.parse(inspect.getsource(getattr(jaxbn, name)))
        kinds = (ast.Expr, ast.ImportFrom, ast.Assign)
        assert all(isinstance(node, kinds) for node in tree.body)


def test_import_needs_no_flax_and_doors_show_their_names():
    """As users see it: the suite's import hook adds a name to every module."""
    code = f"""if True:
        import sys, jaxbn
        assert "flax" not in sys.modules
        assert jaxbn.nnx.BatchNorm and "flax" in sys.modules
        for door in map(jaxbn.__getattr__, {DOORS}):
            shown = [name for name in dir(door) if not name.startswith("_")]
            assert shown == sorted(door.__all__), shown
        shown = [name for name in dir(jaxbn) if not name.startswith("_")]
        assert set({DOORS}) < set(shown)
        assert all(callable(getattr(jaxbn, n)) for n in set(shown) - set({DOORS}))
        try:
            jaxbn.keras
        except AttributeError as error:
            assert str(error) == "module 'jaxbn' has no attribute 'keras'"
        """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_tests_mirror_the_library():
    """Each file has its test, under the same name in the same room."""
    # Held by the error texts, by every test of a call, or through the public function.
    by_others = {"_checks", "lifting", "settings", "records", "types", "layout"}
    by_others |= {"affine", "passes", "moments", "report"}
    by_others |= {"transfer", "keras", "equinox"}  # these in tests/networks
    for path, _ in sources("jaxbn"):
        _, *room, file = path.split("/")
        if not room or file == "__init__.py" or {*room, file[:-3]} & by_others:
            continue
        test = ROOT / "tests" / room[0].lstrip("_") / f"test_{file}"
        assert test.exists(), path


def test_the_way_of_a_call_names_what_exists():
    """The names in the core's README are those of its files and functions."""
    folder = Path(jaxbn._core.__path__[0])
    text = (folder / "README.md").read_text()
    assert len(text.splitlines()) <= 25
    rooms = ("jaxbn/_core", "jaxbn/_functions", "jaxbn/_flax")
    code = "\n".join((ROOT / path).read_text() for path, _ in sources(*rooms))
    for name in re.findall(r"`([\w./]+)`", text):
        if name.endswith(".py"):
            assert (folder / name).exists() or (folder.parent / name).exists(), name
        else:
            assert re.search(rf"(def|class) {name}\b|^    {name}:", code, re.M), name


def test_arguments_are_annotated():
    """At least 98 of 100, and all of private functions."""
    annotated, bare = 0, []
    for path, tree in sources("jaxbn"):
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            a = node.args
            rest = [v for v in (a.vararg, a.kwarg) if v is not None]
            for argument in a.posonlyargs + a.args + a.kwonlyargs + rest:
                if argument.arg in ("self", "cls"):
                    continue
                annotated += argument.annotation is not None
                if argument.annotation is None:
                    bare.append(f"{path}: {node.name}({argument.arg})")
    assert annotated >= 98 * len(bare) and not bare, bare


@pytest.mark.parametrize("public", PUBLIC, ids=lambda p: p.__name__)
def test_public_names_are_documented(public):
    text = inspect.getdoc(public) or ""
    sections = {"Example:", "References:"}
    if inspect.isfunction(public):
        sections |= {"Args:", "Returns:", "Raises:"}
    if public is jaxbn.save_inputs:  # JAX calls it, and it raises nothing
        sections.remove("Raises:")
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
            parameter.VAR_POSITIONAL,  # the arrays of a user's function
            parameter.VAR_KEYWORD,  # what JAX tells a policy
        )
        if parameter.kind == parameter.POSITIONAL_OR_KEYWORD:
            array = ("x", "mean", "var", "scale", "bias")
            modules = ("module", "variables", "model", "apply", "forward", "batches")
            modules += ("weights", "path", "params", "state", "network", "function")
            modules += ("batch_stats", "primitive")
            assert name in (*array, "stats", "moments", "num_features", *modules)
