"""Published teachers: their table, bringing one from a server that behaves and from those that do not."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner, Result

from kdbench import models, suites
from kdbench.cli import main
from kdbench.models import teachers
from kdbench.run import session
from kdbench.run import teachers as teaching
from kdbench.suites.published_teachers import choose, hint, load_published
from kdbench.utils import download

SHARED = Path(__file__).resolve().parents[2] / "shared" / "teachers" / "cifar100_resnet56-f2eff4c8.pt"


class Handler(BaseHTTPRequestHandler):
    """Serves one file as it is told to."""

    content: ClassVar[bytes] = b""
    mode: ClassVar[str] = "well"
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        type(self).asked.append(wanted)
        if self.mode == "404":
            self.send_error(404)
            return
        if self.mode == "nonsense":
            self.wfile.write(b"\x00\x01nothing of HTTP\r\n\r\n")
            return
        start = 0
        if wanted and self.mode != "no ranges":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
        else:
            self.send_response(200)
        body = self.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.mode == "cut" else body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    Handler.mode, Handler.asked = "well", []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as here:
        thread = threading.Thread(target=here.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{here.server_address[1]}"
        here.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet8 for digits that nobody has trained."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("published") / "digits_resnet8.pt"
    torch.save(models.create("resnet8", 10, image_size=8).net.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def accuracy(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    out = tmp_path_factory.mktemp("imported")
    told("teacher", "import", checkpoint, "--name", "resnet8", "--suite", "digits", "--out", out)
    return float(json.loads((out / "teachers" / "digits" / "resnet8.json").read_text())["top1"])


def asked(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def told(*words: Any, code: int = 0) -> str:
    done = asked(*words)
    assert done.exit_code == code, done.output
    return done.output


def entry(file: Path, address: str, top1: float = 50.0, **other: Any) -> dict[str, Any]:
    content = file.read_bytes()
    Handler.content = content
    return {
        "name": "somebodys-resnet8",
        "network": "resnet8",
        "dataset": "digits",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "licence": "MIT",
        "top1": round(top1, 2),
        "address": f"{address}/some/digits_resnet8.pt",
        "mean": [0.307, 0.307, 0.307],
        "std": [0.3762, 0.3762, 0.3762],
    } | other


def table(folder: Path, *entries: dict[str, Any]) -> Path:
    file = folder / "mine.toml"
    lines = [
        f"[[teacher]]\n{''.join(f'{key} = {json.dumps(value)}{chr(10)}' for key, value in one.items())}"
        for one in entries
    ]
    file.write_text("\n".join(lines))
    return file


def fetch(tmp_path: Path, file: Path, *more: Any, code: int = 0) -> str:
    words = ("--suite", "digits", "--table", file, "--out", tmp_path / "out")
    return told("teacher", "fetch", "resnet8", *words, *more, code=code)


def kept(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "teachers" / "digits_resnet8.pt"


def test_a_teacher_is_fetched_verified_and_measured(
    server: str, checkpoint: Path, accuracy: float, tmp_path: Path
) -> None:
    mine = table(tmp_path, entry(checkpoint, server, accuracy))
    output = fetch(tmp_path, mine)
    assert f"teacher resnet8 for digits: {accuracy:.2f}% on the test set" in output
    assert f"as its publisher states ({accuracy:.2f}%, licence MIT)" in output
    assert kept(tmp_path).read_bytes() == checkpoint.read_bytes()
    _, card = teachers.load(tmp_path / "out" / "teachers", "digits", "resnet8", image_size=8)
    assert card.origin == f"{server}/some/digits_resnet8.pt"
    assert card.mean == (0.307, 0.307, 0.307)
    assert "is there already" in fetch(tmp_path, mine, code=2)
    fetch(tmp_path, mine, "--replace")
    assert len(Handler.asked) == 1  # the file was there


def test_its_own_normalisation_is_on_the_card(server: str, checkpoint: Path, tmp_path: Path) -> None:
    mine = table(tmp_path, entry(checkpoint, server, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]))
    fetch(tmp_path, mine, "--no-verify")
    _, card = teachers.load(tmp_path / "out" / "teachers", "digits", "resnet8", image_size=8)
    assert (card.mean, card.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert card.top1 is None


def test_another_accuracy_than_stated_is_told(server: str, checkpoint: Path, accuracy: float, tmp_path: Path) -> None:
    mine = table(tmp_path, entry(checkpoint, server, accuracy + 1))
    output = fetch(tmp_path, mine, code=1)
    assert f"but its publisher states {accuracy + 1:.2f}%" in output


def refused(tmp_path: Path, output: str, why: str) -> None:
    """One sentence: what was wrong, where to get the file and where to put it."""
    error = output.splitlines()[-1]
    assert error.startswith("Error: somebodys-resnet8 cannot be downloaded: ")
    assert why in error
    assert f"put it at {kept(tmp_path)}, or name it with --from FILE" in error
    assert "/some/digits_resnet8.pt" in error
    assert not kept(tmp_path).exists()
    assert not (tmp_path / "out").exists()


def test_another_file_is_not_taken(server: str, checkpoint: Path, tmp_path: Path) -> None:
    mine = table(tmp_path, entry(checkpoint, server))
    Handler.content = bytes(reversed(Handler.content))
    refused(tmp_path, fetch(tmp_path, mine, code=1), "what came is another file: sha256")
    assert not list((tmp_path / "cache" / "teachers").iterdir())


@pytest.mark.parametrize("more", [1, 200_000])
def test_a_larger_file_is_not_taken(more: int, server: str, checkpoint: Path, tmp_path: Path) -> None:
    mine = table(tmp_path, entry(checkpoint, server))
    Handler.content += b"x" * more
    refused(tmp_path, fetch(tmp_path, mine, code=1), "so it is another file")


@pytest.mark.parametrize("mode", ["well", "no ranges"])
def test_what_broke_off_goes_on(mode: str, server: str, checkpoint: Path, accuracy: float, tmp_path: Path) -> None:
    mine = table(tmp_path, entry(checkpoint, server, accuracy))
    Handler.mode = "cut"
    half = len(Handler.content) // 2
    refused(tmp_path, fetch(tmp_path, mine, code=1), f"it broke off after {half:,} of {len(Handler.content):,} bytes")
    Handler.mode = mode
    fetch(tmp_path, mine)
    assert Handler.asked == [None, f"bytes={half}-"]
    assert kept(tmp_path).read_bytes() == checkpoint.read_bytes()


def test_a_file_that_is_not_there(server: str, checkpoint: Path, tmp_path: Path) -> None:
    mine = table(tmp_path, entry(checkpoint, server))
    Handler.mode = "404"
    refused(tmp_path, fetch(tmp_path, mine, code=1), "the server says 404 Not Found")


def test_a_server_that_speaks_nonsense(server: str, checkpoint: Path, tmp_path: Path) -> None:
    mine = table(tmp_path, entry(checkpoint, server))
    Handler.mode = "nonsense"
    refused(tmp_path, fetch(tmp_path, mine, code=1), "the server does not answer as one should")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://nobody.invalid"])
def test_no_network(address: str, checkpoint: Path, tmp_path: Path) -> None:
    mine = table(tmp_path, entry(checkpoint, address))
    refused(tmp_path, fetch(tmp_path, mine, code=1), "the network does not reach it")


def test_a_file_of_ones_own(checkpoint: Path, accuracy: float, tmp_path: Path) -> None:
    mine = table(tmp_path, entry(checkpoint, "https://nobody.invalid", accuracy))
    other = tmp_path / "other.pt"
    other.write_bytes(checkpoint.read_bytes() + b"x")
    output = fetch(tmp_path, mine, "--from", other, code=2)
    assert "is not the published somebodys-resnet8: it has" in output
    other.write_bytes(b"x" + checkpoint.read_bytes()[1:])
    output = fetch(tmp_path, mine, "--from", other, code=2)
    assert "is not the published somebodys-resnet8: its sha256 is" in output
    assert "there is no file" in fetch(tmp_path, mine, "--from", tmp_path / "none.pt", code=2)
    assert not (tmp_path / "out").exists()
    assert "as its publisher states" in fetch(tmp_path, mine, "--from", checkpoint)


def test_a_file_that_was_put_there_by_hand(checkpoint: Path, accuracy: float, tmp_path: Path) -> None:
    mine = table(tmp_path, entry(checkpoint, "http://127.0.0.1:9", accuracy))
    kept(tmp_path).parent.mkdir(parents=True)
    kept(tmp_path).write_bytes(b"cut")
    assert "is not the published somebodys-resnet8; it is fetched anew" in fetch(tmp_path, mine, code=1)
    shutil.copy(checkpoint, kept(tmp_path))
    fetch(tmp_path, mine)


def test_a_teacher_is_named_by_its_entry_where_there_are_several(checkpoint: Path, tmp_path: Path) -> None:
    first = entry(checkpoint, "http://127.0.0.1:9")
    mine = table(tmp_path, first, first | {"name": "anothers-resnet8"})
    assert "name one of somebodys-resnet8, anothers-resnet8" in fetch(tmp_path, mine, code=2)
    found = load_published(str(mine))
    assert choose(found, "anothers-resnet8", None, "digits").name == "anothers-resnet8"
    with pytest.raises(ValueError, match="no published teacher 'resnet20' for digits; did you mean resnet8"):
        choose(found[:1], "resnet20", "resnet20", "digits")
    with pytest.raises(
        ValueError, match=r"no teacher for cifar10 is in the table of published ones, .* or other; --suite"
    ):
        choose(found, "resnet8", "resnet8", "cifar10")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "F2EF"}, "sha256: "),
        ({"address": "file:///etc/passwd"}, "an address begins with https://"),
        ({"address": "https://x.y/../.."}, "an address ends with the name of a file"),
        ({"address": "https://x.y/a%2F..%2Fb.pt/"}, "an address ends with the name of a file"),
        ({"name": "../../x"}, "a teacher's name has letters"),
        ({"bytes": 0}, "bytes: "),
        ({"top1": 101.0}, "top1: "),
        ({"std": [0.0, 1.0, 1.0]}, "std.0: "),
        ({"colour": "red"}, "colour: "),
    ],
)
def test_a_table_that_is_none(change: dict[str, Any], said: str, checkpoint: Path, tmp_path: Path) -> None:
    mine = table(tmp_path, entry(checkpoint, "https://nobody.invalid") | change)
    with pytest.raises(ValueError, match=r"mine\.toml, teacher 1") as caught:
        load_published(str(mine))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "x = 1", "[teacher]\nname = 1", "teacher = [1]", "[[teacher"])
def test_a_file_that_is_no_table(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.toml"):
        load_published(str(tmp_path / "mine.toml"))


def test_two_of_one_name(checkpoint: Path, tmp_path: Path) -> None:
    one = entry(checkpoint, "https://nobody.invalid")
    with pytest.raises(ValueError, match="has two teachers named 'somebodys-resnet8'"):
        load_published(str(table(tmp_path, one, one)))


def test_every_teacher_of_the_table_is_a_network_of_a_suite() -> None:
    data = {suites.load(name).dataset for name in suites.names()}
    for one in load_published():
        assert models.resolve(one.network) == one.network
        assert one.dataset in data
        assert one.sha256[:8] in one.file or "-" not in one.file  # where the publisher puts it into the name


def test_published_teachers_are_listed() -> None:
    line = next(line for line in told("list", "teachers", "--plain").splitlines() if "resnet56" in line)
    assert line.split("\t")[:5] == ["chenyaofo-resnet56", "resnet56", "cifar100", "72.63", "BSD-3-Clause"]
    assert "teachers" not in suites.names()


@pytest.mark.skipif(not SHARED.is_file(), reason="the published ResNet-56 does not lie beside the checkout")
def test_the_published_resnet56_is_taken_over(tmp_path: Path) -> None:
    words = ("--suite", "semckd", "--from", SHARED, "--no-verify", "--out", tmp_path)
    assert "teacher resnet56 for cifar100" in told("teacher", "fetch", "resnet56", *words)
    _, card = teachers.load(tmp_path / "teachers", "cifar100", "resnet56", image_size=32)
    assert card.mean == (0.5070, 0.4865, 0.4409)


def test_a_run_that_lacks_a_published_teacher_says_so(tmp_path: Path) -> None:
    said = hint("resnet56", "cifar100", "semckd")
    assert said == "a published resnet56 (72.63%) can be had instead: kdbench teacher fetch resnet56 --suite semckd"
    assert hint("resnet56", "cifar100", "mine").endswith("--suite FILE.toml")
    assert hint("resnet8", "cifar100", "semckd") == ""
    words = ("--suite", "semckd", "--pairs", "resnet56:resnet8", "--methods", "kd", "--data-dir", tmp_path)
    assert said in told("run", *words, "--dry-run", "--out", tmp_path)
    job = session.resolve(session.Request(suite="semckd", pairs="resnet56:resnet8", methods="kd", out=tmp_path))
    notes: list[str] = []
    with suppress(AttributeError):  # there are no data: it gets far enough
        teaching.train(
            tmp_path,
            job.suite,
            "resnet56",
            None,  # type: ignore[arg-type]
            {"epochs": 1},
            device=torch.device("cpu"),
            watch=None,  # type: ignore[arg-type]
            note=notes.append,
        )
    assert said in notes


def test_a_silent_server_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(download, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.pt"
        with pytest.raises(download.NotFetched):
            download.fetch(address, tmp_path / "x.pt", sha256="0" * 64, size=5, told=lambda there: None)
