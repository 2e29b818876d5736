"""Kept students as files for others: weights, programs, model cards.

The wing is also the function: ``kdbench.export("semckd resnet20:resnet8 0", to="onnx")``.
"""

from kdbench.utils.wing import also_a_function

also_a_function(__name__, "kdbench.export.make")
