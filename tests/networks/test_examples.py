# SPDX-License-Identifier: Apache-2.0
"""The examples of docstrings that need another library."""

import inspect
import os
import re
import textwrap

import pytest

os.environ["KERAS_BACKEND"] = "jax"

import jaxbn.convert

WITH_OTHERS = ("from_equinox", "to_equinox", "from_keras", "to_keras")


@pytest.mark.parametrize("name", WITH_OTHERS)
def test_example(name):
    text = inspect.getdoc(getattr(jaxbn.convert, name))
    (block,) = re.findall(r"With \w+::\n\n(.*?)\n\nReferences:", text, re.DOTALL)
    exec(textwrap.dedent(block), {})
