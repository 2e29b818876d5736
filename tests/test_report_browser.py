"""The page in a real browser: it fits, its headers stay, its filters, its sorting and its keys work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from narrow import there
from synthetic import grid

from kdbench.report import report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: What a reader does, and what is seen of it afterwards.
SCRIPT = """
const said = {}, errors = [];
addEventListener("error", event => errors.push(String(event.message)));
const box = document.querySelector("#leaderboard .scroll"), table = box.querySelector("table");
const names = () => [...table.querySelectorAll("tbody tr:not(.class):not(.hide) th")].map(cell => cell.textContent);
box.style.maxHeight = "120px"; box.style.maxWidth = "380px";
box.scrollTop = 60; box.scrollLeft = 90;
const frame = box.getBoundingClientRect(), head = table.querySelectorAll("thead th")[1].getBoundingClientRect();
const first = table.querySelector("tbody th").getBoundingClientRect();
said.scrolled = [box.scrollTop > 0, box.scrollLeft > 0];
said.headTop = Math.abs(head.top - frame.top) < 3;
said.rowLeft = Math.abs(first.left - frame.left) < 3;
said.overflow = document.documentElement.scrollWidth - innerWidth;
byRow.value = "cr*"; byRow.dispatchEvent(new Event("input")); said.rows = names();
byRow.value = ""; byPair.value = "vgg8"; byPair.dispatchEvent(new Event("input"));
said.pairs = [...table.querySelectorAll("thead th.pair:not(.hide)")].length;
byPair.value = ""; byPair.dispatchEvent(new Event("input"));
const button = [...table.querySelectorAll("thead button")].at(-1);
button.click(); button.click();
const column = button.closest("th").cellIndex;
said.sorted = [...table.querySelectorAll("tr.ranked")].map(row => Number(row.cells[column].dataset.value));
box.focus();
box.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
for (let i = 0; i < 4; i++)
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
said.focus = document.activeElement.tagName;
said.tip = document.getElementById("tip").hidden ? "" : document.getElementById("tip").textContent;
said.errors = errors;
const out = document.createElement("pre"); out.id = "said"; out.textContent = JSON.stringify(said);
document.body.append(out);
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no chromium")
def test_a_reader_can_use_the_page(tmp_path: Path) -> None:
    grid(tmp_path / "out", seeds=2)
    report(tmp_path / "out", formats=["html"])
    html = (tmp_path / "out" / "semckd" / "leaderboard.html").read_text()
    probed = tmp_path / "probed.html"
    probed.write_text(html.replace("</body>", f"<script>{SCRIPT}</script></body>"))
    assert BROWSER is not None
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", probed.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    said = json.loads(there(re.search(r'<pre id="said">(.*?)</pre>', done.stdout, flags=re.DOTALL))[1])
    assert said["errors"] == []
    assert said["scrolled"] == [True, True]
    assert said["headTop"]
    assert said["rowLeft"]
    assert said["overflow"] <= 0
    assert said["rows"] == ["crd"]
    assert said["pairs"] == 1
    assert said["sorted"] == sorted(said["sorted"])
    assert len(said["sorted"]) > 3
    assert said["focus"] == "TD"
    assert "settings " in said["tip"]
