# SPDX-License-Identifier: Apache-2.0
"""Networks of other libraries, with the packages that hold them: `make networks`."""
