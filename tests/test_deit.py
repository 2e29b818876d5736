"""DeiT equals its formula, typed anew here, with two heads and with one; each head has its own teacher."""

import pytest
import torch
from toys import batch, outputs, pair

from kdbench.distiller import Batch, Outputs
from kdbench.engine.shared import Passing, Shown
from kdbench.methods.deit import DeiT
from kdbench.models import create

K = 7


def sides() -> tuple[Outputs, Outputs, Batch]:
    return outputs((4, 4, 4), k=K), outputs((4, 4, 4), k=K, seed=1), batch()


def nll(z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross-entropy by its definition."""
    p = z.exp() / z.exp().sum(dim=1, keepdim=True)
    return -torch.stack([p[i, c].log() for i, c in enumerate(label.tolist())]).sum() / len(z)


@pytest.mark.parametrize(("targets", "weight", "tau"), [("hard", 0.5, 3.0), ("hard", 0.2, 1.0), ("soft", 0.1, 3.0)])
@pytest.mark.parametrize("heads", [1, 2])
def test_formula_and_gradient(heads: int, targets: str, weight: float, tau: float) -> None:
    student, teacher, one = sides()
    torch.manual_seed(3)
    z = [torch.randn_like(student.logits).requires_grad_(True) for _ in range(heads)]
    seen = student._replace(logits=sum(z) / heads, heads=tuple(z) if heads == 2 else None)  # type: ignore[arg-type]
    method = DeiT(pair(student, teacher), targets=targets, weight=weight, tau=tau)  # type: ignore[arg-type]
    found = method.loss(seen, teacher, one)
    assert list(found) == ["class_token", "distillation_token"]  # neither CE nor KD of the mean beside them
    if targets == "hard":
        taught = nll(z[-1], teacher.logits.argmax(dim=1))
    else:
        p, q = ((one / tau).softmax(dim=1) for one in (teacher.logits, z[-1]))
        taught = tau**2 * (p * (p / q).log()).sum() / len(p)
    told = nll(z[0], one.label)
    torch.testing.assert_close(found["class_token"], (1 - weight) * told)
    torch.testing.assert_close(found["distillation_token"], weight * taught)
    ours = torch.autograd.grad(sum(found.values()), z)  # type: ignore[arg-type]
    theirs = torch.autograd.grad((1 - weight) * told + weight * taught, z)
    torch.testing.assert_close(ours, theirs)


def test_each_head_has_a_teacher_of_its_own() -> None:
    student, teacher, one = sides()
    z = student.logits.flip(0).detach().requires_grad_(), student.logits.flip(1).detach().requires_grad_()
    found = DeiT(pair(student, teacher)).terms(student._replace(heads=z), teacher, one)
    for name, own, other in (("class_token", z[0], z[1]), ("distillation_token", z[1], z[0])):
        gradient, none = torch.autograd.grad(found[name], [own, other], allow_unused=True, retain_graph=True)
        assert gradient.any()
        assert none is None


def test_mixed_and_smoothed_labels_are_the_truth_of_the_class_token() -> None:
    student, teacher, one = sides()
    method = DeiT(pair(student, teacher))
    even = torch.full((len(one.label), K), 1 / K, dtype=student.logits.dtype)
    found, plain = (method.terms(student, teacher, b) for b in (one._replace(target=even), one))
    wanted = -student.logits.log_softmax(dim=1).mean() / 2
    torch.testing.assert_close(found["class_token"], wanted)
    assert torch.equal(found["distillation_token"], plain["distillation_token"])


def test_a_distilled_network_trains_its_two_heads_apart() -> None:
    torch.manual_seed(0)
    net = create("timm/deit_tiny_distilled_patch16_224", K, image_size=32)
    image, label = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    seen = net(image)
    taught = seen.map(torch.Tensor.detach)._replace(logits=torch.eye(K)[[5, 6]])
    sizes = seen.shapes()
    method = DeiT(pair(seen, taught))
    assert sizes.pooled == 2 * sizes.tokens[-1][1]
    terms = method.terms(seen, taught, Batch(image, label, label, torch.tensor(0.0)))
    sum(terms.values()).backward()  # type: ignore[union-attr]
    first, second = (head.bias.grad for head in net.net.get_classifier())  # type: ignore[operator]
    assert set(first.argsort()[:2].tolist()) == {0, 1}  # what is pulled up has the lowest gradient: the labels
    assert set(second.argsort()[:2].tolist()) == {5, 6}  # and the teacher's classes


def test_what_is_no_target_and_no_share_is_refused() -> None:
    both = pair(*sides()[:2])
    with pytest.raises(ValueError, match="deit: targets='warm'; the teacher's are hard or soft"):
        DeiT(both, targets="warm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"deit: weight=1\.5 is no share of the loss"):
        DeiT(both, weight=1.5)


@pytest.mark.parametrize("field", ["tokens", "heads"])
def test_what_a_transformer_shows_beside_its_maps_is_guarded_too(field: str) -> None:
    _, teacher, one = sides()
    rows = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    bare = teacher.map(torch.Tensor.detach)
    seen = bare._replace(tokens=rows) if field == "tokens" else bare._replace(heads=rows)
    passing = Passing(Shown(one.image, one.label, one.idx, seen))
    getattr(seen, field)[1].add_(1)
    assert passing.changed() == [f"the teacher's {field}"]
