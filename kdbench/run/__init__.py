"""From a request to records: cells, groups, teachers, what stays.

The wing is also the function: ``kdbench.run(methods="kd,semckd", out="results")``.
"""

from kdbench.utils.wing import also_a_function

also_a_function(__name__, "kdbench.library.verbs")
