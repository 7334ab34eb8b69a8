# SPDX-License-Identifier: Apache-2.0
"""The full text of every error, raised through the public functions."""

import ast
import inspect
import traceback

import numpy as np
import pytest

import jaxbn
from jaxbn._checks import (
    accumulation,
    arrays,
    axes,
    convert,
    diagnosis,
    folding,
    models,
    population,
    segments,
    statistics,
    surgery,
)
from tests.checks import (
    accumulation_texts,
    array_texts,
    axes_texts,
    convert_texts,
    diagnosis_texts,
    folding_texts,
    models_texts,
    population_texts,
    segments_texts,
    statistics_texts,
    surgery_texts,
)

TEXTS = (
    accumulation_texts,
    array_texts,
    axes_texts,
    convert_texts,
    diagnosis_texts,
    folding_texts,
    models_texts,
    population_texts,
    segments_texts,
    statistics_texts,
    surgery_texts,
)
MODULES = (
    accumulation,
    arrays,
    axes,
    convert,
    diagnosis,
    folding,
    models,
    population,
    segments,
    statistics,
    surgery,
)
ALL = [error for texts in TEXTS for error in texts.ERRORS]

pytestmark = pytest.mark.usefixtures("without_type_checker")


@pytest.mark.parametrize(("call", "error", "text"), ALL, ids=[e[2] for e in ALL])
def test_text(call, error, text):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == text


def test_every_check_is_above():
    """Each `raise` of these modules was reached by one of the calls."""
    raised = set()
    for call, error, _ in ALL:
        try:
            call()
        except (TypeError, ValueError, ModuleNotFoundError) as caught:
            assert type(caught) is error
            last = traceback.extract_tb(caught.__traceback__)[-1]
            raised.add((last.filename, last.lineno))
    raises = {
        (module.__file__, node.lineno)
        for module in MODULES
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Raise)
    }
    assert raises == raised


def test_numpy_arrays_are_arrays():
    y, moments = jaxbn.batch_norm(np.asarray([[1.0], [3.0]], np.float32))
    assert moments.mean.item() == 2.0 and y.shape == (2, 1)
