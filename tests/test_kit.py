"""The conformance kit catches every mutant, by the check that is about its fault, and passes what is right."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from toys import Plugin

import kdbench
from kdbench import Distiller, registry
from kdbench.testing import CHECKS, Finding, check_distiller, variant
from kdbench.testing.conformance import FAMILIES, PROVENANCES, VIEWS
from kdbench.testing.toys import ALIKE, Problem

pytestmark = pytest.mark.core

FOLDER = Path(__file__).parent / "mutants"
RIGHT = {"right", "right_average", "plain"}  # plain is what the mutants spoil

#: Every mutant, the check that must catch it, and words of the sentence that the author reads.
CAUGHT = {
    "drops_cross_entropy": ("hyperparameters_do_something", "does not change with ce_weight, kd_weight"),
    "exits": ("terms_are_finite_scalars", "SystemExit (line"),
    "ignores_its_weight": ("hyperparameters_do_something", "changes with beta, which tuning scales"),
    "knows_the_sizes": ("other_sizes_work", "in batches of 12"),
    "leaves_a_keyword_unread": ("hyperparameters_do_something", "takes gamma and never reads it"),
    "leaves_a_switch": ("process_is_left_alone", "other methods run in the same process"),
    "names_with_orders": ("terms_are_finite_scalars", "is no name for a term"),
    "predicts_by_chance": ("predict_gives_logits", "when it is asked again"),
    "seeds_itself": ("it_never_seeds", "every seed goes on alike"),
    "weight_in_the_module": ("alone_as_in_company", "both share"),
    "writes_a_value": ("tensors_follow_the_device", "waits for the device to read a value"),
    "writes_what_is_there": ("teacher_is_left_alone", "teacher.pooled in place"),
    "assumes_float32": ("bf16_stays_finite", "under bf16 autocast"),
    "assumes_many_classes": ("two_classes_work", "with two classes"),
    "assumes_whole_batches": ("tail_batch_works", "a last batch of 3 images"),
    "bank_not_saved": ("resume_is_exact", "not in state_dict"),
    "bank_plain_tensor": ("resume_is_exact", "not in state_dict"),
    "bare_deviations": ("it_says_where_it_comes_from", "tuple of sentences"),
    "on_stage_counts": ("on_stage_only_sets", "must only set"),
    "boolean_index": ("loss_compiles_whole", "boolean index"),
    "branches_on_value": ("loss_compiles_whole", "`if` on a tensor's value"),
    "changes_teacher_in_place": ("teacher_is_left_alone", "teacher.pooled in place"),
    "common_not_passed_on": ("hyperparameters_arrive", "taken but not passed on"),
    "counts_in_python": ("time_is_read_from_progress", "batch.progress"),
    "detached_student": ("student_learns_from_the_method", "match reaches the student"),
    "drops_in_epochs": ("class_attributes_agree", "not epochs"),
    "frozen_first_stage": ("terms_are_finite_scalars", "detached or frozen"),
    "grows_without_bound": ("it_trains", "is not finite"),
    "hyperparameter_of_none": ("hyperparameters_are_keywords_with_defaults", "default of beta"),
    "hyperparameter_without_default": ("hyperparameters_are_keywords_with_defaults", "beta needs a default"),
    "ignores_teacher": ("teacher_is_used_as_declared", "needs_teacher = False"),
    "log_of_softmax": ("sure_logits_stay_finite", "log_softmax"),
    "made_on_cpu": ("tensors_follow_the_device", "device=..."),
    "module_in_a_list": ("no_state_outside_the_state_dict", "layers"),
    "names_change": ("tail_batch_works", "match8"),
    "no_reference": ("it_says_where_it_comes_from", "`reference` is empty"),
    "not_frozen_after": ("every_parameter_is_trained", "freeze it in on_stage('train')"),
    "not_reduced": ("terms_are_finite_scalars", "has shape (8,)"),
    "numpy_random": ("time_is_read_from_progress", "torch's default generator"),
    "own_generator": ("resume_is_exact", "torch's default generator"),
    "positional_hyperparameters": ("hyperparameters_are_keywords_with_defaults", "put `*` before beta"),
    "predicts_in_train_mode": ("predict_gives_logits", "alone and among others"),
    "reads_progress_as_float": ("loss_compiles_whole", "float()"),
    "refuses_all": ("a_toy_pair_is_served", "needs a pair of another kind"),
    "replaces_ce": ("terms_are_finite_scalars", "a name of the base class"),
    "returns_float": ("terms_are_finite_scalars", "not a tensor"),
    "reads_labels": ("hard_labels_are_declared", "batch.truth to its cross-entropy"),
    "reads_more": ("reads_no_more_than_declared", "match changes when the teacher shows no pooled"),
    "search_of_another_type": ("tuning_has_its_candidates", "another type of beta"),
    "search_of_five": ("tuning_has_its_candidates", "gives 6 values"),
    "search_with_twins": ("tuning_has_its_candidates", "are the same"),
    "stage_without_terms": ("class_attributes_agree", "`pretrain_terms` is not written"),
    "state_on_class": ("alone_as_in_company", "on the class"),
    "takes_a_name_of_the_contract": ("names_of_the_contract_are_free", "self.loss is set"),
    "trains_teacher_norms": ("teacher_is_left_alone", "clone what comes from the pair"),
    "unknown_view": ("class_attributes_agree", "rot45"),
    "unused_parameter": ("every_parameter_is_trained", "spare.weight"),
    "view_of_a_map": ("terms_are_finite_scalars", "view"),
    "weight_as_an_integer": ("tuning_has_its_candidates", "write a decimal point"),
    "weight_of_another_name": ("tuning_has_its_candidates", "no hyper-parameter beta to tune"),
    "weight_of_nothing": ("tuning_has_its_candidates", "the default of beta is 0"),
    "weight_out_of_range": ("tuning_has_its_candidates", "beta=2.0 is no share"),
}


def failures(findings: list[Finding]) -> dict[str, str]:
    return {f.check: f.sentence for f in findings if not f.ok and not f.skipped}


def test_every_mutant_is_in_the_table() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} == RIGHT | set(CAUGHT)


def test_every_check_catches_a_mutant() -> None:
    assert {check for check, _ in CAUGHT.values()} == {check.__name__.removeprefix("check_") for check in CHECKS}


@pytest.mark.parametrize("name", sorted(CAUGHT))
def test_mutant_is_caught(name: str, plugin: Plugin) -> None:
    cls = plugin(FOLDER / f"{name}.py")
    check, words = CAUGHT[name]
    found = failures(check_distiller(cls, checks=[c for c in CHECKS if c.__name__ == f"check_{check}"]))
    assert check in found
    assert words in found[check], found[check]


def test_a_weight_of_another_name_is_told_once(plugin: Plugin) -> None:
    cls = plugin(FOLDER / "weight_of_another_name.py")
    asked = {"tuning_has_its_candidates", "hyperparameters_do_something", "alone_as_in_company"}
    checks = [one for one in CHECKS if one.__name__.removeprefix("check_") in asked]
    assert len(checks) == 3
    assert set(failures(check_distiller(cls, checks=checks))) == {"tuning_has_its_candidates"}


def test_a_loss_that_is_compiled_again_is_told_of(plugin: Plugin) -> None:
    cls = plugin(FOLDER / "counts_in_python.py")
    found = failures(check_distiller(cls, checks=[c for c in CHECKS if c.__name__ == "check_loss_compiles_whole"]))
    assert "compiled again for a second batch" in found["loss_compiles_whole"], found
    assert "fail_on_recompile" not in found["loss_compiles_whole"]


@pytest.mark.parametrize("name", ["right", "right_average"])
def test_what_is_right_passes(name: str, plugin: Plugin) -> None:
    findings = check_distiller(plugin(FOLDER / f"{name}.py"))
    assert failures(findings) == {}
    assert [f.check for f in findings] == [check.__name__.removeprefix("check_") for check in CHECKS]
    assert all(f.sentence.endswith((".", '").')) for f in findings), "a kept rule is told as its sentence"


def test_what_the_mutants_spoil_passes() -> None:
    from mutants.plain import Plain

    assert failures(check_distiller(Plain)) == {}


def test_a_combination_passes() -> None:
    assert failures(check_distiller(registry.get("fitnet+mag"))) == {}


def test_a_variant_is_checked_with_its_own_defaults(plugin: Plugin) -> None:
    cls = plugin(FOLDER / "right.py")
    assert failures(check_distiller(variant(cls, width=3))) == {}
    assert "a_toy_pair_is_served" in failures(check_distiller(variant(registry.get("fitnet"), tap=9)))
    assert "a_toy_pair_is_served" in failures(check_distiller(variant(registry.get("fitnet+mag"), tap=9)))
    assert variant(cls, width=3).hyperparameters()["width"].default == 3
    assert variant(cls, width=3).build(Problem(ALIKE).pair).get_parameter("project.weight").shape[0] == 3
    with pytest.raises(ValueError, match=r"has no hyper-parameter wide; it has .*width"):
        variant(cls, wide=3)


def test_a_refused_pair_is_told_and_no_failure() -> None:
    findings = check_distiller(registry.get("fsp"), checks=CHECKS[:5])
    refused = [f for f in findings if f.skipped]
    assert len(refused) == 2
    assert all(f.ok and "channels" in f.sentence for f in refused)


def test_what_was_not_tried_is_told(plugin: Plugin) -> None:
    *_, last = check_distiller(plugin(FOLDER / "refuses_all.py"))
    assert last.skipped
    assert not last.ok
    assert f"{len(CHECKS) - 4} more checks" in last.sentence


def test_an_error_names_the_line_of_the_file(plugin: Plugin) -> None:
    checks = [check for check in CHECKS if check.__name__ == "check_terms_are_finite_scalars"]
    found = failures(check_distiller(plugin(FOLDER / "view_of_a_map.py"), checks=checks))
    lines = (FOLDER / "view_of_a_map.py").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, start=1) if ".view(" in text)
    assert f"RuntimeError (line {line} of its file)" in found["terms_are_finite_scalars"]


def test_checking_draws_no_random_number_of_the_caller() -> None:
    before = torch.get_rng_state()
    check_distiller(registry.get("kd"), pairs=(ALIKE,))
    assert torch.equal(before, torch.get_rng_state())


def test_words_are_those_of_the_rest_of_the_suite() -> None:
    from kdbench.data.views import VIEWS as made

    assert set(VIEWS) == set(made)
    documented = (Path(kdbench.__file__).parent / "distiller.py").read_text()
    assert all(word in documented for word in (*PROVENANCES, *FAMILIES))


def test_every_check_has_a_rule_in_words() -> None:
    assert all((check.__doc__ or "").partition("\n")[0].endswith(".") for check in CHECKS)
    assert len({check.__name__ for check in CHECKS}) == len(CHECKS)


def test_the_base_class_alone_is_no_method() -> None:
    assert "it_says_where_it_comes_from" in failures(check_distiller(Distiller))


def test_what_came_later_is_a_hyper_parameter() -> None:
    class Mine(registry.get("fitnet")):  # type: ignore[misc]
        later: ClassVar[tuple[str, ...]] = ("tap", "taps")

    rule = [check for check in CHECKS if check.__name__ == "check_hyperparameters_are_keywords_with_defaults"]
    (found,) = check_distiller(Mine, checks=rule)
    assert found.sentence == "`later` names taps, which is no hyper-parameter"
    Mine.later, Mine.signed = ("tap",), ("gama",)
    assert check_distiller(Mine, checks=rule)[0].sentence == "`signed` names gama, which is no hyper-parameter"
    Mine.signed = ()
    assert check_distiller(Mine, checks=rule)[0].ok
