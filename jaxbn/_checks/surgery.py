# SPDX-License-Identifier: Apache-2.0
"""Checks of models whose batch norms are to be changed."""

import contextlib
from collections.abc import Collection, Generator, Sequence

from jaxbn._checks.axes import axis_names, check_groups

MICRO_BATCHES = "micro-batches that wait for `commit`"
"""Among the reasons why Flax's norm cannot replace a layer."""


def check_has_norms(norms: Collection[str], *, name: str, door: str) -> None:
    """There must be something to change."""
    if not norms:
        raise ValueError(
            f"`{name}` must have a batch norm of `flax.{door}` or `jaxbn.{door}`, got "
            "none; give one that has."
        )


def check_is_module(model: object, *, is_module: bool) -> None:
    """A graph is needed."""
    if not is_module:
        raise TypeError(f"`model` must be an `nnx.Module`, got {type(model).__name__}.")


def check_is_function(apply: object, *, is_function: bool, compiled: bool) -> None:
    """Norms are found where Python runs the model."""
    if not is_function:
        raise TypeError(
            "`apply` must be a function that runs the model, such as `model.apply`, "
            f"got {type(apply).__name__}."
        )
    if compiled:
        raise ValueError(
            "`apply` must be the function before `jax.jit`, got a compiled one, whose "
            "norms may be traced already; compile what is returned."
        )


def check_is_ours(path: str, kind: str, *, fix: str) -> None:
    """Refuses a norm of Flax."""
    raise ValueError(
        f"`{path}` must be a batch norm of jaxbn, got `{kind}`; replace it first: "
        f"`{fix}`."
    )


def check_reachable(path: str, kind: str, *, door: str) -> None:
    """Refuses a layer whose norms are of the other framework."""
    raise ValueError(
        f"`{path}` must hold no batch norm that is out of reach, got one in `{kind}`; "
        f"write that model in `flax.{door}`."
    )


def check_calls_super(path: str, kind: str, *, calls: bool) -> None:
    """A subclass that does not use the norm's arithmetic cannot exchange it."""
    if not calls:
        raise ValueError(
            f"`{path}` must normalize by `super().__call__`, which is exchanged, got "
            f"`{kind}`, whose own `__call__` does not."
        )


@contextlib.contextmanager
def naming_layer(path: str) -> Generator[None]:
    """Says of which layer an error is: jaxbn refuses what Flax computes anyway."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"`{path}`: {error}") from None


def check_no_conflict(path: str, kind: str, names: Sequence[str]) -> None:
    """A subclass's own attributes must not be taken for settings."""
    if names:
        listed = ", ".join(f"`{name}`" for name in names)
        raise ValueError(
            f"`{path}` must have no attribute {listed}, which means something else in "
            f"`jaxbn.nnx.BatchNorm`, got one in `{kind}`; rename it."
        )


def check_can_restore(path: str, kind: str, reasons: Sequence[str]) -> None:
    """Flax's norm must be able to do what this one does."""
    if reasons:
        raise ValueError(
            f"`{path}` must be a layer that Flax's batch norm can replace, got "
            f"`{kind}` with {', '.join(reasons)}, which it does not have; "
            f"{_fix_of(reasons)}."
        )


def _fix_of(reasons: Sequence[str]) -> str:
    """What to do first."""
    if MICRO_BATCHES in reasons:
        return "call `commit` first"
    if "frozen=True" in reasons:
        return "`unfreeze` it first"
    if "activation" in reasons:
        return "leave `activation` None, and apply it after the layer"
    return "train without, or load the variables into Flax's for inference"


def check_can_freeze(path: str, kind: str, *, has_params: bool) -> None:
    """An activation's parameters are not in the layer's reach."""
    if has_params:
        raise ValueError(
            f"`{path}` must have no parameters but scale and bias to be frozen, got "
            f"`activation={kind}`; apply the activation after the layer."
        )


def check_new_axis(axis_name: object, groups: object) -> None:
    """`axis_name` must be a name or several; no axis is bound yet."""
    names = axis_names(axis_name)
    if not names:
        check_groups(groups, names)
