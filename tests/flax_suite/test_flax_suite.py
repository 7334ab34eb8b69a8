# SPDX-License-Identifier: Apache-2.0
"""Which tests are chosen, and what their outcomes mean."""

from tests.flax_suite.source import choose_tests
from tests.flax_suite.verdict import compare

CODE = """
norm = nn.BatchNorm
class Model:
    norm: object = norm
def build():
    model = Model()
    return model
class Base:
    def setUp(self): self.model = build()
class TestByBase(Base):
    def test_inherited(self): self.model
class TestLinen:
    def test_direct(self): nn.BatchNorm()
    def test_by_name(self): build()
    def test_text(self): assert "BatchNorm:" in text
    def test_other(self): nn.Dense()
    @parameterized.parameters(norm)
    def test_parameter(self, layer): layer()
def test_function(): Model()
def test_nothing(): model()
"""


def test_chosen_tests_use_batch_norm_directly_or_by_a_name_of_the_file():
    assert choose_tests(CODE) == {
        ("TestByBase", "test_inherited"),
        ("TestLinen", "test_direct"),
        ("TestLinen", "test_by_name"),
        ("TestLinen", "test_text"),
        ("TestLinen", "test_parameter"),
        ("", "test_function"),
    }


def test_verdict():
    flax = dict.fromkeys(["same", "fails", "listed", "rot", "lost"], "")
    flax |= {"file::flax": "of Flax", "file": "no module named absl"}
    jaxbn = {"same": "", "fails": "an error", "listed": "an error", "rot": "", "f": "?"}
    differences = dict.fromkeys(["listed", "rot", "gone"], "a reason")
    verdict = compare(flax, jaxbn, differences)
    assert verdict.passed == ["same"]
    assert verdict.listed == {"listed": "a reason"}
    assert verdict.broken == {"file::flax": "of Flax"}
    assert verdict.wrong == {
        "fails": "an error",
        "file": "cannot be imported: no module named absl",
        "f": "not run on Flax; with jaxbn: ?",
        "lost": "not run",
        "rot": "in the list of differences, but it passes",
        "gone": "in the list of differences, but no test of this Flax",
    }
    assert list(verdict.lines())[-3:] == [
        "  in the list of differences, but no test of this Flax",
        "    gone",
        "1 tests pass on Flax and with jaxbn, 1 differ as listed, 6 are wrong.",
    ]
