# SPDX-License-Identifier: Apache-2.0
"""What the configs cost and reach, measured again by `make measure`."""
