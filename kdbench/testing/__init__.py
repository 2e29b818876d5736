"""The conformance kit: ``check_distiller(cls)`` proves that a method keeps the contract, in sentences."""

from kdbench.testing.conformance import CHECKS, Check, Finding, check_distiller, variant
from kdbench.testing.toys import TOYS, Broken, Toy

__all__ = ["CHECKS", "TOYS", "Broken", "Check", "Finding", "Toy", "check_distiller", "variant"]
