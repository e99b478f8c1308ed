"""Files as the writing half reads them."""

import pytest

from pipeline import files


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_reads_files_of_any_size_whole(tmp_path, size):
    data = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "a").write_bytes(data[:size])
    assert files.read_bounded(str(tmp_path / "a")) == data[:size]


@pytest.mark.parametrize("limit", [1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_no_more_is_read_than_is_asked_for(tmp_path, limit):
    (tmp_path / "a").write_bytes(bytes(5 * 2**20))
    assert len(files.read_bounded(str(tmp_path / "a"), limit)) == limit


def test_of_a_file_that_is_too_large_only_as_much_is_read_as_shows_it(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 100)
    assert len(files.read_bounded(str(tmp_path / "a"))) == files.MAX_FILE_BYTES + 1
