# SPDX-License-Identifier: Apache-2.0
"""`jaxbn.conversion`: names of before `jaxbn.convert`, for one release."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

from jaxbn._flax import conversion


def _renamed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def warning(*args: Any, **kwargs: Any) -> Any:
        name = function.__name__
        warnings.warn(
            f"`jaxbn.conversion.{name}` is now `jaxbn.convert.{name}`; the old name "
            "goes with the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    return warning


from_linen = _renamed(conversion.from_linen)
to_linen = _renamed(conversion.to_linen)
