# SPDX-License-Identifier: Apache-2.0
"""The computation, in JAX alone, on arguments that are checked and lifted.

`README.md` in this folder follows one call through it.
"""
