"""The documents hold: links resolve, every registered name is mentioned, code and commands print what is shown.

How a page is read: Python blocks that begin with ``# run`` run; a block behind ``<!-- file: NAME -->`` becomes that file;
``$ spikeloom`` lines of console blocks run unless the block stands behind ``<!-- not run: why -->``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from spikeloom.cli import app, main
from spikeloom.cli.console import err, out
from spikeloom.codesign.mapping import MappingChoices
from spikeloom.codesign.metrics import METRICS
from spikeloom.codesign.search import SAMPLERS, SearchSettings
from spikeloom.components import TABLES, Quote, load_table
from spikeloom.data import DATASETS
from spikeloom.files.schema import file_key
from spikeloom.files.store import write_trace
from spikeloom.hw import HARDWARE
from spikeloom.nets import NETWORKS, NetOptions
from spikeloom.studies.experiment import EXPERIMENTS, Experiment
from spikeloom.studies.search_file import SEARCHES, Baselines, SearchFile

ROOT = Path(__file__).resolve().parents[2]
GUIDE = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
VGG9_PAGES = [
    ROOT / "docs" / "benchmarks.md",
    *(ROOT / "docs" / "models" / f"{model}.md" for model in ("spikex", "sata")),
]
DATA = os.environ.get("SPIKELOOM_DATA", "")

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE_SPAN = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_BLOCK = re.compile(
    r"(?:^<!-- (?:file: (?P<file>\S+)|(?P<not_run>not run: .*?)) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
_COMMAND = re.compile(r"^\$ (?P<line>.*?)(?: +#.*)?\n(?P<shown>(?:(?!\$ ).*\n)*)", re.MULTILINE)
_READINGS = re.compile(r"<!-- readings -->\n(.*?)<!-- /readings -->", re.DOTALL)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_resolve(page: Path) -> None:
    prose = _CODE_SPAN.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))
    broken = []
    for link in _LINK.findall(prose):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_file() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken, f"{_name(page)}: links that lead nowhere: {broken}"


def _registered() -> Iterator[tuple[str, str]]:
    """(registry, name) of everything a user can name."""
    for model, machine in HARDWARE.items():
        yield "HARDWARE", model
        yield from (("preset", preset) for preset in machine.presets)
    yield from (("NETWORKS", name) for name in NETWORKS)
    yield from (("DATASETS", name) for name in DATASETS)
    yield from (("TABLES", name) for name in TABLES)
    yield from (("EXPERIMENTS", name) for name in EXPERIMENTS)
    yield from (("SEARCHES", name) for name in SEARCHES)
    for command in app.registered_commands:
        assert command.name is not None
        yield "verb", f"spikeloom {command.name}"


def test_every_key_of_an_experiment_is_documented() -> None:
    pytest.importorskip("torch")
    from spikeloom.snn import ENCODINGS, LOSSES, SURROGATES, TrainConfig

    text = (ROOT / "docs" / "guide" / "training.md").read_text(encoding="utf-8")
    keys = [item.name for cls in (Experiment, TrainConfig, NetOptions) for item in fields(cls)]
    names = {*keys, *ENCODINGS, *LOSSES, *SURROGATES} - {"name", "train", "data_options", "network_options"}
    assert not [name for name in sorted(names) if f"`{name}`" not in text]


def test_every_key_of_a_search_is_documented() -> None:
    pytest.importorskip("torch")
    from spikeloom.studies.recipe import PruningStage, QuantizingStage

    text = (ROOT / "docs" / "guide" / "search.md").read_text(encoding="utf-8")
    kinds = (SearchFile, SearchSettings, MappingChoices, PruningStage, QuantizingStage, Baselines)
    names = {item.name for kind in kinds for item in fields(kind)} | set(SAMPLERS) | set(METRICS)
    missing = [name for name in sorted(names) if f"`{name}`" not in text and f"`[{name}]`" not in text]
    assert not missing


def test_every_registered_name_is_documented() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in GUIDE)
    missing = [
        f"{registry} {name}"
        for registry, name in _registered()
        if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
    ]
    assert not missing, f"neither README.md nor docs/guide says a word about: {missing}"


def _runs(block: re.Match[str]) -> bool:
    return block["kind"] == "python" and block["body"].startswith("# run\n")


def _printed_by_code(source: str, where: str) -> str:
    namespace: dict[str, Any] = {"__name__": "docs"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(source, where, "exec"), namespace)
    return printed.getvalue()


def _printed_by_command(line: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Standard output and standard error of a command line, in a terminal of 80 columns."""
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
    ).stdout.split("\0")[:-1]
    monkeypatch.setattr(sys, "argv", words)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
        main()
    return printed.getvalue()


def _plain(text: str) -> str:
    """Without the blanks at the ends of lines and the empty lines around."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def _check(command: re.Match[str], where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command line; compare what it prints with what is shown up to the next command or the end of the block."""
    shown = command["shown"].split("```")[0]
    printed = _printed_by_command(command["line"], monkeypatch)
    if "note: " not in shown:  # a page may leave the notes out
        printed = re.sub(r"^note: .*\n", "", printed, flags=re.MULTILINE)
    assert _plain(printed) == _plain(shown), f"{where}: {command['line']}"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """80 columns without colours whatever the tests run in, no data sets, an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIKELOOM_DATA", raising=False)
    plain = {"_width": 80, "_color_system": None, "_force_terminal": False, "is_interactive": False}
    for console in (out, err):
        for name, value in plain.items():
            monkeypatch.setattr(console, name, value)


@pytest.mark.parametrize("page", [page for page in GUIDE if _BLOCK.search(page.read_text(encoding="utf-8"))], ids=_name)
@pytest.mark.usefixtures("terminal")
def test_what_a_page_shows_is_what_comes_out(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, all in one folder in which the files of the README lie already."""
    if page.name != "README.md":
        for block in filter(_runs, _BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))):
            _printed_by_code(block["body"], "README.md")
    text = page.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        where = f"{_name(page)}, line {text[: block.start()].count(chr(10)) + 1}"
        if block["file"]:
            Path(block["file"]).write_text(block["body"], encoding="utf-8")
        if _runs(block):
            if "import torch" in block["body"] and importlib.util.find_spec("torch") is None:
                pytest.skip("torch is not installed; what follows on this page needs it")
            printed = _printed_by_code(block["body"], where)
            shown = re.match(r"\n*```text\n(.*?)^```", text[block.end() :], re.MULTILINE | re.DOTALL)
            if shown and "import torch" not in text[: block.end()]:  # torch may draw other numbers in another build
                assert _plain(printed) == _plain(shown[1]), f"{where} prints something else than the page shows"
        if block["kind"] == "console" and not block["not_run"]:
            for command in _COMMAND.finditer(block["body"]):
                if command["line"].startswith("spikeloom ") and " | " not in command["line"]:
                    _check(command, where, monkeypatch)


@pytest.mark.parametrize("page", VGG9_PAGES, ids=_name)
@pytest.mark.skipif(
    not (Path(DATA) / "traces" / "prosperity_vgg9_cifar10.npz").is_file(), reason="needs SPIKELOOM_DATA"
)
@pytest.mark.usefixtures("terminal")
def test_what_a_page_says_of_the_vgg9_trace_is_so(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.prosperity_vgg9 import trace

    write_trace("vgg9.npz", *trace(DATA))
    commands = [
        c for c in _COMMAND.finditer(page.read_text(encoding="utf-8")) if "spikeloom eval vgg9.npz" in c["line"]
    ]
    assert commands
    for command in commands:
        _check(command, _name(page), monkeypatch)


def test_card_and_decision_list_the_same_readings() -> None:
    pages = [ROOT / "docs" / "models" / "spikex.md", ROOT / "docs" / "decisions" / "0002-spikex-readings.md"]
    card, record = (_READINGS.search(page.read_text(encoding="utf-8")) for page in pages)
    assert card is not None and record is not None
    assert card[1] == record[1]


def test_every_decision_is_listed_once() -> None:
    folder = ROOT / "docs" / "decisions"
    records = sorted(page.name for page in folder.glob("[0-9]*.md"))
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "index.md").read_text(encoding="utf-8"))
    assert listed == records


@pytest.mark.parametrize("model", HARDWARE)
def test_every_machine_has_a_model_card(model: str) -> None:
    card = ROOT / "docs" / "models" / f"{model}.md"
    assert card.is_file(), f"write docs/models/{model}.md"
    text = card.read_text(encoding="utf-8")
    arch = HARDWARE[model].arch_type()
    named = [f"{instance}.{action}" for instance, action in arch.charges()]
    named += [*HARDWARE[model].presets, *(file_key(item) for item in fields(arch))]
    missing = [name for name in named if f"`{name}`" not in text]
    assert not missing, f"docs/models/{model}.md does not describe the counts, presets or fields {missing}"


def test_the_spikex_card_states_the_prices_charged() -> None:
    text = (ROOT / "docs" / "models" / "spikex.md").read_text(encoding="utf-8")
    prices = text[text.index("## Prices") : text.index("## Refused")]
    arch = HARDWARE["spikex"].arch_type()
    table = load_table(arch.table)
    for counted, charges in arch.charges().items():
        joules = 0.0
        for charge in charges:
            value = table.energy(charge.component, charge.action).value
            joules += charge.times * value / (charge.component.width_bit if charge.per_bit else 1)
        shown = [f"{joules * scale:.9g}" for scale in (1e12, 1e15)]  # pJ, fJ
        assert not charges or any(figure in prices for figure in shown), f"{counted}: {shown}"
    for ask, scale in ((table.area, 1e6), (table.leakage, 1e3)):  # mm2, mW
        for instance in ("lbuf", "glb"):
            (part,) = (part for part in arch.inventory() if part.instance == instance)
            quote = ask(part.component)
            assert isinstance(quote, Quote)
            assert f"{quote.value * scale:.5f}".rstrip("0") in prices
