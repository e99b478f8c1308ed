"""Files as the writing half reads them."""

import pytest

from pipeline import files


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_reads_files_of_any_size_whole(tmp_path, size):
    data = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "a").write_bytes(data[:size])
    assert files.read_bounded(str(tmp_path / "a")) == data[:size]


def test_of_a_file_that_is_too_large_only_as_much_is_read_as_shows_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 2 * 2**20)
    (tmp_path / "a").write_bytes(bytes(5 * 2**20))
    assert len(files.read_bounded(str(tmp_path / "a"))) == 2 * 2**20 + 1
