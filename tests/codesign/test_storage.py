from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from spikeloom.codesign.storage import StudyFolder, open_folder, open_storage
from spikeloom.core.report import Trial
from spikeloom.errors import SearchError


def trial(number: int) -> Trial:
    return Trial({"number": number}, {}, 0, "toy", 0.5, None)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return open_folder(tmp_path / "study", {"seed": 1}, resume=True)


def test_results_are_found_as_they_come_and_torn_lines_are_none(folder: StudyFolder) -> None:
    one, two, three = trial(1), trial(2), trial(3)
    assert folder.find(one.id) is None and folder.finished() == {}
    folder.append(one)
    assert folder.find(one.id) == one and folder.find(two.id) is None
    with folder.results.open("a") as file:  # a worker killed while it wrote
        file.write('{"format":"spikeloom-trial","id":"' + three.id + '","conf')
    assert folder.find(three.id) is None
    folder.append(two)
    assert folder.find(two.id) == two and folder.find(three.id) is None
    assert folder.finished() == {one.id: one, two.id: two}


def test_a_results_file_that_was_replaced_is_read_afresh(folder: StudyFolder) -> None:
    folder.append(trial(1))
    folder.append(trial(2))
    assert folder.find(trial(2).id) is not None
    folder.results.unlink()
    assert folder.find(trial(2).id) is None
    folder.append(trial(3))
    assert folder.find(trial(3).id) == trial(3) and folder.find(trial(1).id) is None


@pytest.mark.skipif(os.name != "posix", reason="claims are locks of POSIX systems")
def test_a_claim_is_waited_for(folder: StudyFolder) -> None:
    order: list[str] = []

    def second() -> None:
        with folder.claim("id"):
            order.append("second")

    thread = threading.Thread(target=second)
    with folder.claim("id"):
        thread.start()
        with folder.claim("other"):
            time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert list((folder.path / "claims").iterdir()) == []


def test_a_folder_elsewhere_is_not_taken_for_this_study(folder: StudyFolder, tmp_path: Path) -> None:
    assert folder.is_here()
    assert not StudyFolder(folder.path, "other").is_here()
    assert not StudyFolder(tmp_path / "none", folder.uid).is_here()
    assert open_folder(folder.path, {"seed": 1}, resume=True) == folder
    with pytest.raises(SearchError, match="'seed': 1 there, 2 here"):
        open_folder(folder.path, {"seed": 2}, resume=True)


def test_a_study_of_the_future_is_refused(folder: StudyFolder) -> None:
    file = folder.path / "study.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(SearchError, match="key 'version' is 2, this Spikeloom reads 1"):
        open_folder(folder.path, {"seed": 1}, resume=True)


def test_sqlite_keeps_a_write_ahead_log(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    with storage.engine.connect() as connection:  # type: ignore[attr-defined]
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL
    storage.engine.dispose()  # type: ignore[attr-defined]
