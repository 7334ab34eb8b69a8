# SPDX-License-Identifier: Apache-2.0
"""The documentation site: `make docs` builds it, offline."""

import os
import re
import types

# Pages with `{code-cell}` are run in the build; one is about several devices.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from sphinx.util import logging

import jaxbn

project = "jaxbn"
author = "the maintainers of jaxbn"
version = release = jaxbn.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"jaxbn {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

# MathJax 3.2.2, so that formulas are drawn without a network.
mathjax_path = "mathjax/tex-chtml.js"

autodoc_typehints = "none"  # shapes and dtypes are in the docstrings
autodoc_member_order = "bysource"
default_role = "literal"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
# Sphinx knows Python's own exceptions only from a file on the network.
nitpick_ignore_regex = [("py:exc", r"[A-Za-z]+Error"), ("py:class", r".*")]

OLD = {"conversion"}  # names that warn
ELSEWHERE = {  # the same as in `jaxbn.linen`
    "jaxbn.nnx.Diagnosis",
    "jaxbn.nnx.Finding",
    "jaxbn.nnx.LayerSummary",
    "jaxbn.nnx.StatisticsGap",
    "jaxbn.nnx.SurgeryReport",
}

_DISPLAYED = re.compile(
    r"^(?P<indent> *)\$\$(?P<tex>.*?)\$\$", re.DOTALL | re.MULTILINE
)
_INLINE = re.compile(r"\$([^$]+)\$", re.DOTALL)


def _formulas(app, what, name, obj, options, lines):
    """Turns the dollars of docstrings, as Markdown has them, into Sphinx's formulas."""

    def displayed(match):
        indent, tex = match["indent"], " ".join(match["tex"].split())
        return f"{indent}.. math:: {tex}\n"

    def inline(match):
        return f":math:`{' '.join(match[1].split())}`"

    text = _DISPLAYED.sub(displayed, "\n".join(lines))
    lines[:] = _INLINE.sub(inline, text).split("\n")


def _skip(app, what, name, obj, skip, options):
    """Leaves out the fields of named tuples, of which Python says nothing."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _check_complete(app, env):
    """Warns of public names without an entry; `make docs` takes that for an error."""
    documented = env.get_domain("py").objects
    doors = [name for name in dir(jaxbn) if name not in OLD]
    for name in doors:
        door = getattr(jaxbn, name)
        names = [f"jaxbn.{name}"]
        if isinstance(door, types.ModuleType):
            names = [f"jaxbn.{name}.{public}" for public in door.__all__]
        for name in {*names} - {*documented} - ELSEWHERE:
            logging.getLogger(__name__).warning("no entry for %s in docs/api.md", name)


def setup(app):
    """Registers what is above."""
    app.connect("env-check-consistency", _check_complete)
    app.connect("autodoc-process-docstring", _formulas, priority=100)
    app.connect("autodoc-skip-member", _skip)
