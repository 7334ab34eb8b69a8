# SPDX-License-Identifier: Apache-2.0
"""Static checks and their messages: each argument is checked once, at the boundary.

A message names the argument in backticks, the requirement, the value, the context and,
where one is known, the fix. `ValueError` is for values, `TypeError` for kinds. Traced
values are never checked: the docstrings say what happens instead.
"""
