"""The documents hold: links resolve, every registered name is mentioned, marked code runs, shared lists are equal."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from spikeloom.cli import app
from spikeloom.components import TABLES, Quote, load_table
from spikeloom.data import DATASETS
from spikeloom.files.schema import file_key
from spikeloom.hw import HARDWARE
from spikeloom.nets import NETWORKS, NetOptions
from spikeloom.studies.experiment import EXPERIMENTS, Experiment

ROOT = Path(__file__).resolve().parents[2]
GUIDE = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE_SPAN = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_RUN = re.compile(r"^```python\n(# run\n.*?)^```", re.MULTILINE | re.DOTALL)
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


def test_every_registered_name_is_documented() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in GUIDE)
    missing = [
        f"{registry} {name}"
        for registry, name in _registered()
        if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
    ]
    assert not missing, f"neither README.md nor docs/guide says a word about: {missing}"


@pytest.mark.parametrize("page", [page for page in GUIDE if _RUN.search(page.read_text(encoding="utf-8"))], ids=_name)
def test_marked_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run in order, each in a namespace of its own, all in one folder; printed text is as shown."""
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    for number, block in enumerate(_RUN.finditer(text), start=1):
        if "import torch" in block[1] and importlib.util.find_spec("torch") is None:
            pytest.skip("torch is not installed; the blocks from here on need it")
        where = f"{_name(page)}, block {number}"
        namespace: dict[str, Any] = {"__name__": "docs"}
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block[1], where, "exec"), namespace)
        shown = re.match(r"\n*```text\n(.*?)^```", text[block.end() :], re.MULTILINE | re.DOTALL)
        if shown and "import torch" not in text[: block.end()]:  # torch's random numbers may differ between builds
            assert printed.getvalue().strip() == shown[1].strip(), f"{where} prints something else than the page shows"


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
