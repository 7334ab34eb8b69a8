# SPDX-License-Identifier: Apache-2.0
"""Checks of models and weights that are converted."""

import contextlib
import math
from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def _of(path: str, name: str = "") -> str:
    """A layer, or a variable of it, by its path; the network itself has none."""
    whole = f"{path}/{name}".strip("/")
    return f"`{whole}`" if whole else "the network itself"


def check_model(model: object) -> None:
    """`model` must be an NNX module, or a function such as Linen's `init`."""
    if not callable(model) or isinstance(model, Mapping):
        raise TypeError(
            "`model` must be an `nnx.Module`, or for Linen a function of a key that "
            "returns variables, such as `lambda key: model.init(key, x)`, got "
            f"{type(model)!r}."
        )
    if hasattr(model, "init_with_output") or isinstance(model, type):
        raise TypeError(
            "`model` must be an instance of `nnx.Module`, or for Linen a function of a "
            "key that returns variables, such as `lambda key: model.init(key, x)`, got "
            f"{type(model) if not isinstance(model, type) else model!r} itself."
        )


def check_has_values(path: str, variables: Mapping[str, Any]) -> None:
    """What is converted must have values, not shapes alone."""
    if any(isinstance(v, jax.ShapeDtypeStruct) for v in variables.values()):
        raise ValueError(
            f"`variables` must have the values to convert, got none for {_of(path)}; "
            "give those of Linen, or an NNX model that was made without `eval_shape`."
        )


def check_watched(used: Collection[str]) -> None:
    """The layers are seen when they are called, which a compiled function hides."""
    if not used:
        raise ValueError(
            "`model` must call Linen's `init` itself, got a function in which no "
            "module is called: give `lambda key: model.init(key, x)` without `jax.jit`."
        )


def check_variables(variables: object) -> None:
    """An NNX model holds its variables."""
    if variables is not None:
        raise ValueError(
            "`variables` must be None for an `nnx.Module`, which holds its own."
        )


def check_known_kinds(paths: Collection[str]) -> None:
    """How the arrays of other layers are laid out is not known."""
    if paths:
        raise ValueError(
            "`model` must have its variables in layers of Flax's or jaxbn's that are "
            "known here (BatchNorm, Conv, ConvTranspose, Dense or Linear, Embed, "
            "LayerNorm, GroupNorm, RMSNorm, InstanceNorm), got others in "
            f"{[path or 'the network itself' for path in sorted(paths)]}; convert "
            "those by hand."
        )


def check_mapping(name: str, value: object, *, or_function: bool = False) -> None:
    """What says something of each layer goes by the layer's path."""
    fits = value is None or isinstance(value, Mapping)
    if not (fits or (or_function and callable(value))):
        also = ", a function of a path" if or_function else ""
        raise TypeError(
            f"`{name}` must be a dict by the paths of layers{also} or None, got "
            f"{type(value).__name__}."
        )


def check_all_named(names: Mapping[str, str], layers: Collection[str]) -> None:
    """`names` must be about layers that exist."""
    unknown = sorted(set(names) - set(layers))
    if unknown:
        raise ValueError(
            f"`names` must have paths of layers as keys, got {unknown}; the layers of "
            f"`model` are {sorted(layers)}."
        )


def check_sources(names: Mapping[str, str], given: Collection[str]) -> None:
    """`names` must lead to layers that exist on the other side."""
    missing = {path: name for path, name in names.items() if name not in given}
    if missing:
        raise ValueError(
            f"`names` must have layers of the weights as values, got {missing}; those "
            f"of the weights are {sorted(given)}."
        )


def check_all_used(names: Mapping[str, str], given: Collection[str]) -> None:
    """A function that names all layers must leave none of the weights out."""
    unused = sorted(set(given) - set(names.values()))
    if unused:
        raise ValueError(
            f"`names` must lead to each layer of the weights, but not to {unused}; "
            "take these out of the weights, or give weights of the same network."
        )


def check_kind(path: str, kind: str, source: str, theirs: str | None) -> None:
    """A layer and its source must be of one kind."""
    if theirs is not None and theirs != kind:
        raise ValueError(
            f"`names` must join layers of one kind, got {_of(path)}, of kind {kind}, "
            f"and {_of(source)}, of kind {theirs}."
        )


def check_same_shapes(
    here: Mapping[str, Sequence[Any]], there: Mapping[str, Mapping[str, Any]]
) -> None:
    """Without names, each layer needs one of its kind and shapes on the other side."""
    if here or there:
        raise ValueError(
            "The weights must have the shapes of the layers of `model`, but for "
            f"{dict(here) or 'nothing'} there is none of these there, and for "
            f"{dict(there) or 'nothing'} none here; check sizes, `use_bias`, "
            "`use_scale`, or give `names` for an error about each layer."
        )


def check_same_number(here: Sequence[str], there: Sequence[str]) -> None:
    """Without names, there must be as many layers on both sides."""
    if len(here) != len(there):
        raise ValueError(
            f"`names` must be given where `model` has {len(here)} layers and the "
            f"weights have {len(there)}: here {list(here)}, there {list(there)}."
        )


def check_same_order(wrong: Sequence[tuple[str, str]]) -> None:
    """Layers of one shape can be told by their order alone."""
    if wrong:
        path, source = wrong[0]
        raise ValueError(
            "`names` must be given where the order of layers is not the same on both "
            f"sides, got `{path}` in the place of `{source}`; give `names`, such as "
            '`names={"stem/conv": "features.0"}`. An NNX model that went through '
            "`nnx.jit` or `nnx.merge` has lost the order of its layers."
        )


def check_no_doubt(doubts: Sequence[tuple[str, str, str, str]]) -> None:
    """Names must tell layers of one shape apart."""
    if doubts:
        one, theirs, two, others = doubts[0]
        raise ValueError(
            f"`names` must be given where order and shapes leave a doubt: `{one}` and "
            f"`{two}` have the same shapes, and their names do not tell that they are "
            f"`{theirs}` and `{others}`, in this order; if they are, give "
            f'`names={{"{one}": "{theirs}"}}`.'
        )


def check_same_arrays(
    library: str, missing: Sequence[str], unknown: Sequence[str]
) -> None:
    """The weights must have each variable of the layers, and no other."""
    if missing or unknown:
        raise ValueError(
            "The weights must have the variables of the layers of `model`, but "
            f"{missing or 'nothing'} is missing there, by {library}'s names, and "
            f"{unknown or 'nothing'} has no variable here; check `use_bias`, "
            "`use_scale` and the momentum."
        )


def check_fits(path: str, name: str, variable: Any, source: str, value: Any) -> None:
    """An array must have the shape of its variable, and be real where that is."""
    shape = jnp.shape(value)
    if shape != tuple(variable.shape) and name != "count":
        raise ValueError(
            f"{_of(path, name)} must have shape {tuple(variable.shape)}, got {shape} "
            f"from {_of(source)}, in the order of axes of `{name}`; check the sizes of "
            "this layer, and which layer `names` gives it."
        )
    if not jnp.issubdtype(value.dtype, jnp.inexact) and name != "count":
        raise ValueError(
            f"{_of(path, name)} must have values of floating point, got "
            f"{value.dtype} from {_of(source)}; quantized weights are not converted."
        )
    complexes = jnp.issubdtype(value.dtype, jnp.complexfloating)
    if complexes and not jnp.issubdtype(variable.dtype, jnp.complexfloating):
        raise ValueError(
            f"{_of(path, name)} must have a complex `param_dtype` for the values of "
            f"{_of(source)}, which are {value.dtype}, got {variable.dtype}."
        )


def check_same_settings(
    path: str, field: str, value: Any, right: Any, source: str
) -> None:
    """A batch norm's settings must be those of its source."""
    numbers = isinstance(value, float | int) and isinstance(right, float | int)
    same = math.isclose(value, right, rel_tol=1e-6) if numbers else value == right
    if isinstance(value, bool | int | float | None) and not same:
        shown = f"{right:.8g}" if isinstance(right, float) else right
        raise ValueError(
            f"{_of(path)} must have `{field}={shown}`, as {_of(source)} has, got "
            f"{value!r}; "
            f"make it as `BatchNorm(..., {field}={shown})` of jaxbn."
        )


def check_different_sources(pairs: Sequence[tuple[str, str]]) -> None:
    """Two layers cannot be stored in one place."""
    seen: dict[str, str] = {}
    for path, source in pairs:
        if source in seen:
            raise ValueError(
                f"`names` must give each layer a place of its own, got `{source}` for "
                f"`{seen[source]}` and `{path}`."
            )
        seen[source] = path


def check_one_count(path: str, least: float, most: float) -> None:
    """Other libraries count the updates of a layer, ours those of each feature."""
    if least != most:
        raise ValueError(
            f"{_of(path, 'count')} must be the same for all features, which other "
            f"libraries count together, got {least:.8g} to {most:.8g}; choose one "
            "number, such as the largest."
        )


def check_flatten(flatten: Mapping[str, Any], path: str, size: int) -> None:
    """It must be known whether a vector was flattened, and from which shape."""
    if path not in flatten:
        raise ValueError(
            f"`flatten` must say what the {size} features of `{path}` are. If they are "
            "a flattened array, give its shape without the batch, channels last, such "
            f'as `flatten={{"{path}": (height, width, channels)}}`; else '
            f'`flatten={{"{path}": None}}`.'
        )


def check_flattened_size(flatten: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Flattened shapes must be those of layers, and of their size."""
    for path, shape in flatten.items():
        if path not in sizes:
            raise ValueError(
                "`flatten` must have paths of Dense layers or norms as keys, got "
                f"`{path}`; those of `model` are {sorted(sizes)}."
            )
        if shape is not None and math.prod(shape) != sizes[path]:
            raise ValueError(
                f"`flatten` must have the shape of {sizes[path]} features for "
                f"`{path}`, got {tuple(shape)}, which has {math.prod(shape)}."
            )


def check_weights(weights: object) -> None:
    """`weights` must be arrays by name, as a `state_dict` is."""
    if not isinstance(weights, Mapping):
        raise TypeError(
            "`weights` must be a module of PyTorch, its `state_dict` or a file of one, "
            f"got {type(weights)!r}."
        )
    others = {
        name: type(value).__name__
        for name, value in weights.items()
        if not (isinstance(name, str) and hasattr(value, "shape"))
    }
    if others or not weights:
        raise ValueError(
            "`weights` must have arrays by name, as a `state_dict` has, got "
            f"{others or 'nothing'}; if the `state_dict` is one of several entries of "
            'a checkpoint, give that one, such as `load_weights(path)["state_dict"]`.'
        )


def check_haiku_trees(**trees: object) -> None:
    """Haiku's trees are dicts of dicts of arrays."""
    for name, tree in trees.items():
        modules = tree.values() if isinstance(tree, Mapping) else [None]
        if not all(isinstance(arrays, Mapping) for arrays in modules):
            raise TypeError(
                f"`{name}` must have arrays by the names of modules and of their "
                f"arrays, as Haiku's `init` returns them, got {type(tree)!r}."
            )


def check_haiku_average(module: str, arrays: Collection[str]) -> None:
    """An average of Haiku's has two values that are converted."""
    missing = sorted({"average", "counter"} - set(arrays))
    if missing:
        raise ValueError(
            f"`state` must have `average` and `counter` in `{module}`, as Haiku's "
            f"`init` returns them, but it lacks {missing}; give the whole state."
        )


def check_haiku_state(others: Sequence[str]) -> None:
    """Of Haiku's state only the averages of batch norms have a place."""
    if others:
        raise ValueError(
            "`state` must have averages of batch norms alone, got "
            f"{sorted(others)} too; leave these out, and convert them by hand."
        )


def check_equinox(network: object, sources: Collection[Any]) -> None:
    """There must be arrays."""
    if not sources:
        raise TypeError(
            f"`network` must be an Equinox module with arrays, got {type(network)!r}."
        )


def check_equinox_state(name: str, state: object) -> None:
    """Batch norms have their statistics in the state."""
    if state is None:
        raise ValueError(
            f"`state` must be given for the batch norm `{name}`, got None; it is what "
            "`equinox.nn.make_with_state` returns with the network."
        )


def check_keras(network: object) -> None:
    """`network` must be a model of Keras with weights."""
    if not getattr(network, "weights", None) or not hasattr(network, "_flatten_layers"):
        raise TypeError(
            "`network` must be a built `keras.Model` with weights, got "
            f"{type(network)!r}; call it, or give it an `Input`, to build it."
        )


def check_keras_path(path: str, known: Collection[str]) -> None:
    """Two weights of one path could not be told apart."""
    if path.rpartition("/")[2] in known:
        raise ValueError(
            f"`network` must have a path for each weight, got two of `{path}`; give "
            "one of their layers another `name`."
        )


def check_suffix(suffix: str, known: Sequence[str]) -> None:
    """The kind of a file is known by its name."""
    if suffix not in known:
        raise ValueError(f"`path` must end in one of {known}, got {suffix!r}.")


@contextlib.contextmanager
def check_installed(package: str) -> Generator[None]:
    """A package that reads one kind of file must be there."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"`path` must be of a kind whose package is installed, got one that needs "
            f"{package}; `pip install {package}`.",
            name=error.name,
        ) from error


@contextlib.contextmanager
def check_only_arrays(path: object, refused: type[Exception]) -> Generator[None]:
    """A file of PyTorch's must hold data alone, no code."""
    try:
        yield
    except refused as error:
        raise ValueError(
            f"`path` must be a file of weights alone, got {str(path)!r}, which "
            "`torch.load` does not read with `weights_only=True`; in the program that "
            "made it, save `model.state_dict()`."
        ) from error
