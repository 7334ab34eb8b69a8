# SPDX-License-Identifier: Apache-2.0
"""The full text of every error, raised through the public functions."""

import ast
import inspect
import traceback

import numpy as np
import pytest

import jaxbn
from jaxbn import _checks
from tests.error_texts import ERRORS

pytestmark = pytest.mark.usefixtures("without_type_checker")


@pytest.mark.parametrize(("call", "error", "text"), ERRORS, ids=[e[2] for e in ERRORS])
def test_text(call, error, text):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == text


def test_every_check_is_above():
    """Each `raise` of `_checks.py` was reached by one of the calls."""
    raised = set()
    for call, error, _ in ERRORS:
        try:
            call()
        except (TypeError, ValueError) as caught:
            assert type(caught) is error
            raised.add(traceback.extract_tb(caught.__traceback__)[-1].lineno)
    source = ast.parse(inspect.getsource(_checks))
    lines = {node.lineno for node in ast.walk(source) if isinstance(node, ast.Raise)}
    assert lines == raised


def test_numpy_arrays_are_arrays():
    y, moments = jaxbn.batch_norm(np.asarray([[1.0], [3.0]], np.float32))
    assert moments.mean.item() == 2.0 and y.shape == (2, 1)
