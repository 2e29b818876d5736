"""Models and what can be seen of them: ``create(name, num_classes)`` gives a ``Tapped``."""

from kdbench.models.fold import fold
from kdbench.models.pair import make_pair
from kdbench.models.pretrained import WeightsMissing, usual_normalisation, weights_identity
from kdbench.models.renormalise import Normalisation
from kdbench.models.tapped import Tapped
from kdbench.models.zoo import create, double, names, resolve

__all__ = [
    "Normalisation",
    "Tapped",
    "WeightsMissing",
    "create",
    "double",
    "fold",
    "make_pair",
    "names",
    "resolve",
    "usual_normalisation",
    "weights_identity",
]
