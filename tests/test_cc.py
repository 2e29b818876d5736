"""CC equals the released code."""

from golden import Case, cases
from kdbench.methods.cc import CC


def rename(name: str) -> str:
    return name.replace(".linear", "")


@cases("cc")
def test_golden(case: Case) -> None:
    case.open()
    student, teacher = case.outputs("student"), case.outputs("teacher")
    method = CC(case.pair(student, teacher), beta=1.0, dim=case.meta["hyper"]["embed_dim"])
    renamed = case.load(method, rename)
    case.check(method.terms(student, teacher, case.batch())["congruence"], method, renamed)
