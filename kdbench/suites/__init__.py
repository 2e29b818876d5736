"""Suites and loss conventions: what is compared, as data.

A suite names a data set, pairs, a training recipe, a loss convention and a published table;
it is a TOML file here or one of the user's. No torch in this package.
"""

from kdbench.suites.convention import Convention, convention, convention_names
from kdbench.suites.literature import PublishedOf, every_number, published_on, reported
from kdbench.suites.published_table import Published, Standing, alike, published, table
from kdbench.suites.published_teachers import PublishedTeacher, load_published
from kdbench.suites.recipe import Recipe
from kdbench.suites.records import best_comparable, records_to_beat
from kdbench.suites.suite import Suite, load, names

__all__ = [
    "Convention",
    "Published",
    "PublishedOf",
    "PublishedTeacher",
    "Recipe",
    "Standing",
    "Suite",
    "alike",
    "best_comparable",
    "convention",
    "convention_names",
    "every_number",
    "load",
    "load_published",
    "names",
    "published",
    "published_on",
    "records_to_beat",
    "reported",
    "table",
]
