"""OFA-KD equals the released code: both terms, every gradient of the exits, every running statistic."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm.models.vision_transformer as vit
import torch
from logits import bears_staged, each_kind
from torch import nn
from toys import Shape, batch, outputs, pair

from golden import Case, cases, unweighted
from kdbench import Outputs, Pair
from kdbench.methods._exits import Merge, Norm, TokenExit
from kdbench.methods.ofa import OFA
from kdbench.registry import get
from kdbench.run.session import Request, resolve
from kdbench.testing import check_distiller, variant
from kdbench.testing.toys import TOKENS

FOUR = ((3, 8, 8), (4, 8, 8), (5, 4, 4), (6, 2, 2), (8, 2, 2))


def rename(name: str) -> str:
    """head.2.sep1.bn2.weight -> heads.1.0.6.weight; what follows the blocks has their number as its place."""
    index = {"dw1": 0, "pw1": 1, "bn1": 2, "dw2": 4, "pw2": 5, "bn2": 6}
    _, stage, *layer, kind = name.split(".")
    head = f"heads.{int(stage) - 1}"
    if layer[0].startswith("sep"):
        return f"{head}.{int(layer[0][3:]) - 1}.{index[layer[1]]}.{kind}"
    blocks = max(4 - int(stage), 1)
    return f"{head}.{0 if layer[0] == 'conv' else blocks + 2}.{kind}"


@cases("ofa")
def test_golden(case: Case) -> None:
    case.open()
    hyper = case.meta["hyper"]
    student, teacher = case.outputs("student"), case.outputs("teacher")
    # The case has no pooled vectors; the width of the exits is the larger of theirs.
    b, stages = len(student.pooled), len(student.feats)
    student = student._replace(
        pooled=torch.zeros(b, hyper["head_width"], dtype=case.dtype),
        feats=(*student.feats, *[torch.zeros(b, 1, 1, 1, dtype=case.dtype)] * (5 - stages)),  # four stages as released
    )
    method = OFA(
        case.pair(student, teacher),
        eps="/".join(map(str, hyper["eps"])),
        w_ofa=hyper["ofa_loss_weight"],
        w_kd=hyper["kd_loss_weight"],
        temperature=hyper["temperature"],
        stages="/".join(map(str, hyper["stages"])),
    )

    def place(name: str) -> str:
        """As ``rename``, where some stages have no exit."""
        stage = int(name.split(".")[1])
        return re.sub(r"heads\.\d+", f"heads.{hyper['stages'].index(stage)}", rename(name))

    renamed = case.load(method, place)
    assert len(renamed) == len(list(method.parameters()))
    logits, heads = method.terms(student, teacher, case.batch()).values()
    parts = unweighted(logits=(logits, hyper["kd_loss_weight"]), heads=(heads, hyper["ofa_loss_weight"]))
    case.check(logits + heads, method, renamed, **parts)
    case.check_buffers(method, place)


@each_kind
@pytest.mark.parametrize("eps", ["1", "1.5/1/1.2"])
def test_finite_in_float32(kind: str, eps: str) -> None:
    bears_staged(OFA, kind, eps=eps)


def test_one_image_whose_map_shrinks_to_one_position_is_served() -> None:
    """Batch norm has no statistic there: the running ones serve, and stay."""
    student, teacher = outputs(*FOUR, b=1, grad=True), outputs((4, 4, 4), b=1, seed=1)
    method = OFA(pair(student, teacher)).double()
    terms = method.terms(student, teacher, batch(1))
    (terms["logits"] + terms["heads"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    norm, x = Norm(3).double(), torch.randn(1, 3, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(norm(x), x, rtol=1e-4, atol=0)
    assert not norm.get_buffer("running_mean").any()
    two = torch.randn(2, 3, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(norm(two), torch.nn.BatchNorm2d(3).double()(two))


@pytest.mark.parametrize("maps", [((4, 4, 4), (5, 4, 4)), ((4, 9, 9), (5, 7, 7), (6, 5, 5), (7, 3, 3)), FOUR])
def test_an_exit_after_every_stage_whatever_their_number(maps: tuple[Shape, ...]) -> None:
    student, teacher = outputs(*maps, grad=True), outputs((4, 4, 4), seed=1)
    method = OFA(pair(student, teacher)).double()
    terms = method.terms(student, teacher, batch())
    assert len(method.heads) == len(maps) - 1
    terms["heads"].backward()
    assert [feat.grad is not None for feat in student.feats] == [False] + [True] * (len(maps) - 1)


def test_eps_one_is_soft_cross_entropy_and_more_leans_to_the_label() -> None:
    student, teacher = outputs((4, 4, 4), (4, 4, 4)), outputs((4, 4, 4), seed=1)
    made, given = pair(student, teacher), batch()

    def logits(**hyper: Any) -> torch.Tensor:
        return OFA(made, **hyper).double().terms(student, teacher, given)["logits"]

    soft = -(teacher.logits.softmax(1) * student.logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(logits(), soft)
    p, hot = teacher.logits.softmax(1), torch.nn.functional.one_hot(given.label, 5)
    want = -(((p + hot) ** 1.4 - hot) * student.logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(logits(eps="1.4"), want)
    torch.testing.assert_close(logits(eps="1/1.4"), want)
    torch.testing.assert_close(logits(w_kd=3.0), 3 * soft)


def test_the_exits_begin_as_released() -> None:
    torch.manual_seed(0)
    wide = outputs((3, 4, 4), (64, 4, 4), (64, 4, 4), k=50)
    heads = OFA(pair(wide, outputs((80, 4, 4), k=50))).heads
    depthwise, pointwise = heads.get_parameter("0.0.0.weight"), heads.get_parameter("0.0.5.weight")
    assert depthwise.std().item() == pytest.approx((2 / 9 / 64) ** 0.5, rel=0.1)
    assert pointwise.std().item() == pytest.approx((2 / 80) ** 0.5, rel=0.1)  # by what goes out
    (_, first), (_, second) = ((name, dict(head.named_parameters())) for name, head in heads.named_children())
    *_, weight, _ = second.values()
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not any([*head.values()][-1].any() for head in (first, second))
    assert not heads.get_parameter("1.0.bias").any()


def test_stages_can_be_chosen() -> None:
    student, teacher = outputs(*FOUR, grad=True), outputs((4, 4, 4), seed=1)
    method = OFA(pair(student, teacher), stages="1/4", eps="1/1.2/1.4").double()
    method.terms(student, teacher, batch())["heads"].backward()
    assert [feat.grad is not None for feat in student.feats] == [False, True, False, False, True]


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"eps": "1/1"}, "one number from 0 on, or 5"),
        ({"eps": "-1"}, "from 0 on"),
        ({"eps": "nan"}, "from 0 on"),
        ({"eps": "inf"}, "from 0 on"),
        ({"eps": ""}, "one number"),
        ({"eps": "high"}, "eps='high'"),
        ({"stages": "5"}, "has 4 stages"),
        ({"stages": "0"}, "has 4 stages"),
        ({"stages": "1.5"}, "has 4 stages"),
        ({"stages": "last"}, "stages='last'"),
    ],
)
def test_what_cannot_be_is_refused(hyper: dict[str, Any], words: str) -> None:
    student = outputs(*FOUR)
    with pytest.raises(ValueError, match=words):
        OFA(pair(student, student), **hyper)


def test_a_net_without_stages_is_refused() -> None:
    student = outputs((4, 4, 4))
    with pytest.raises(ValueError, match="0 stages"):
        OFA(pair(student, student))


def test_there_is_no_kd_term_beside_it() -> None:
    assert "kd_weight" not in get("ofa").hyperparameters()
    student, teacher = outputs(*FOUR), outputs((4, 4, 4), seed=1)
    assert set(OFA(pair(student, teacher)).double().loss(student, teacher, batch())) == {"ce", "logits", "heads"}


def tokens(*taps: Shape, before: int = 1, b: int = 6) -> Outputs:
    """As ``outputs``, with rows of tokens: those before the patches, of which a stem has none."""
    shown = outputs(*taps, b=b)
    rows = [feat.flatten(2).transpose(1, 2) for feat in shown.feats]
    rest = [torch.cat((torch.randn(b, before, one.shape[2], dtype=one.dtype), one), dim=1) for one in rows[1:]]
    return shown._replace(tokens=(rows[0], *rest))


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("side", [4, 14])
def test_an_exit_on_tokens_is_the_authors(side: int, before: int) -> None:
    """Four neighbours merged where a side has 14 or more, timm's blocks of four heads, class token or mean, linear."""
    torch.manual_seed(0)
    exit = TokenExit((side**2 + before, 8), before=before, width=8, blocks=2, num_classes=5).double()
    # The release is of a timm whose blocks had torch's norms.
    theirs = torch.nn.Sequential(*[vit.Block(8, num_heads=4, norm_layer=torch.nn.LayerNorm) for _ in range(2)]).double()
    names = {"attn.qkv": "qkv", "attn.proj": "proj", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
    pattern = "|".join(map(re.escape, names))
    state = exit.blocks.state_dict()
    theirs.load_state_dict({key: state[re.sub(pattern, lambda m: names[m[0]], key)] for key in theirs.state_dict()})
    rows = torch.randn(3, side**2 + before, 8, dtype=torch.float64)
    kept, x = rows[:, :before], rows[:, before:]
    if side == 14:
        grid = x.reshape(3, 14, 14, 8)
        corners = [grid[:, 0::2, 0::2], grid[:, 1::2, 0::2], grid[:, 0::2, 1::2], grid[:, 1::2, 1::2]]
        merge = exit.merge[0]
        assert isinstance(merge, Merge)
        x = torch.nn.functional.gelu(merge.reduction(merge.norm(torch.cat(corners, -1).reshape(3, 49, 32))))
    x = theirs(torch.cat((kept, x), dim=1))
    torch.testing.assert_close(exit(rows), exit.linear(x[:, 0] if before else x.mean(dim=1)))


def test_exits_on_tokens_keep_the_contract() -> None:
    found = check_distiller(variant(get("ofa"), exits="tokens"), pairs=[TOKENS])
    assert [(one.check, one.sentence) for one in found if not one.ok] == []


def test_the_exit_of_a_distilled_transformer_reads_both_tokens() -> None:
    student = tokens((8, 4, 4), (8, 4, 4), before=2)
    sizes = student.shapes()
    method = OFA(Pair(sizes, sizes, lambda last: last, 5, torch.zeros(20, dtype=torch.int64), 6), exits="tokens")
    head = method.heads[0].linear
    assert isinstance(head, nn.Linear)
    assert head.in_features == 16


@pytest.mark.parametrize(
    ("student", "words"),
    [
        (outputs(*FOUR), "this student shows maps only"),
        (tokens((6, 4, 4), (6, 4, 4)), "a multiple of 4"),
        (tokens((8, 4, 3), (8, 4, 3)), "12 patches are no square"),
        (tokens((8, 15, 15), (8, 15, 15)), "15x15 patches cannot be halved"),
    ],
)
def test_tokens_that_are_not_there_or_cannot_be_read_are_a_sentence(student: Outputs, words: str) -> None:
    sizes = student.shapes()
    with pytest.raises(ValueError, match=rf"ofa: .*{words}"):
        OFA(Pair(sizes, sizes, lambda last: last, 5, torch.zeros(20, dtype=torch.int64), 6), exits="tokens")
    with pytest.raises(ValueError, match="exits on maps and on tokens"):
        OFA(Pair(sizes, sizes, lambda last: last, 5, torch.zeros(20, dtype=torch.int64), 6), exits="rows")  # type: ignore[arg-type]


def test_a_hyper_parameter_that_came_later_renames_no_older_cell() -> None:
    asked = resolve(Request("ofa[exits=maps;tokens],mag+ofa", "resnet20:resnet8", "digits", seeds="1")).cells
    maps, rows, both = asked
    assert maps.label == "ofa"
    assert "exits" not in maps.settings.hyper
    assert "exits" not in both.settings.hyper
    assert rows.settings.hyper["exits"] == "tokens"
    assert maps.hash != rows.hash
    kept = Path(__file__).parents[1] / "results" / "runs" / "digits" / "resnet20-resnet8"
    assert maps.hash in {file.stem.rpartition("-")[2] for file in kept.glob("ofa-s0-*.json")}
