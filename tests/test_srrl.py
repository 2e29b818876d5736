"""SRRL equals the SimKD repository's version."""

import pytest
from toys import batch, outputs, pair

from golden import Case, cases, total
from kdbench.methods.srrl import SRRL


def rename(name: str) -> str:
    return name.replace("connector.conv", "connector.0").replace("connector.bn", "connector.1")


@cases("srrl")
def test_golden(case: Case) -> None:
    case.open()
    classifier = case["in.teacher.classifier.weight"], case["in.teacher.classifier.bias"]
    student, teacher = case.outputs("student"), case.outputs("teacher")._replace(classifier=classifier)
    method = SRRL(case.pair(student, teacher), beta=1.0)
    renamed = case.load(method, rename)
    terms = method.terms(student, teacher, case.batch())
    case.check(total(terms), method, renamed, **terms)
    case.check_buffers(method, rename)


def test_a_teacher_without_a_linear_classifier_is_refused() -> None:
    student = outputs((3, 8, 8), (4, 4, 4))
    method = SRRL(pair(student, student)).double()
    with pytest.raises(ValueError, match="not one linear layer"):
        method.terms(student, student._replace(classifier=None), batch())
