# SPDX-License-Identifier: Apache-2.0
"""jaxbn and its peers on the same cases, against the float64 oracle: `make compare`."""
