"""Output folders: whole or as they were, and nothing of the user's is ever deleted."""

import os
import re

import pytest
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from apache_beam.io.filesystems import FileSystems

from pipeline import files, job
from pipeline.dataset_info import INFO_FILE, load_info
from pipeline.errors import UserError
from pipeline.job import JobOptions
from pipeline.output_folder import OutputFolderError, replacing

SHARD = "pairs-train.tfrecord-00000-of-00001"


def tree(folder) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def write(output_dir, content: bytes, overwrite=False, names=(SHARD, INFO_FILE)) -> None:
    with replacing(str(output_dir), overwrite) as staging:
        for name in names:
            files.write_whole(f"{staging}/{name}", content)


def test_appears_whole_at_the_end(tmp_path):
    output_dir = tmp_path / "a" / "records"
    with replacing(str(output_dir), overwrite=False) as staging:
        files.write_whole(f"{staging}/{INFO_FILE}", b"1")
        assert not output_dir.exists()
    assert tree(tmp_path) == {f"a/records/{INFO_FILE}": b"1"}


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_after_a_fault_all_is_as_it_was(tmp_path, fault):
    write(tmp_path / "records", b"old")
    before = tree(tmp_path)
    with pytest.raises(fault), replacing(str(tmp_path / "records"), overwrite=True) as staging:
        files.write_whole(f"{staging}/{SHARD}", b"new")
        raise fault
    assert tree(tmp_path) == before


def test_records_are_replaced_only_when_told(tmp_path):
    write(tmp_path / "records", b"old", names=(SHARD, "bad_pairs.jsonl", INFO_FILE))
    before = tree(tmp_path)
    with pytest.raises(OutputFolderError, match=r"is not empty: .* with --overwrite"):
        write(tmp_path / "records", b"new")
    assert tree(tmp_path) == before
    write(tmp_path / "records", b"new", overwrite=True)
    assert tree(tmp_path / "records") == {SHARD: b"new", INFO_FILE: b"new"}
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", ["notes.txt", "train/1.jpg", ".hidden", "a/b/c"])
def test_what_is_not_records_is_never_deleted(tmp_path, content, overwrite):
    path = tmp_path / "mine" / content
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(OutputFolderError, match=r"holds something else|is not empty"):
        write(tmp_path / "mine", b"new", overwrite)
    assert tree(tmp_path) == {f"mine/{content}": b"mine"}


@pytest.mark.parametrize("content", ["notes.txt", "run/checkpoint"])
def test_what_lies_beside_records_is_not_deleted_with_them(tmp_path, content):
    write(tmp_path / "records", b"old")
    path = tmp_path / "records" / content
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    before = tree(tmp_path)
    name = re.escape(content.split("/")[0])
    with pytest.raises(OutputFolderError, match=f"holds '{name}' beside the records"):
        write(tmp_path / "records", b"new", overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_folder_is_not_replaced_by_its_records(pairs_dir, overwrite):
    """The pairs lie in folders of it, and no file in itself."""
    before = tree(pairs_dir)
    options = JobOptions(str(pairs_dir), str(pairs_dir), overwrite=overwrite)
    with pytest.raises(UserError, match=r"is not empty|holds something else"):
        job.run(options)
    assert tree(pairs_dir) == before
    assert len(before) == 31


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_not_replaced(tmp_path, overwrite):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(OutputFolderError, match="is a file; name a folder"):
        write(tmp_path / "file", b"new", overwrite)
    assert tree(tmp_path) == {"file": b"mine"}


def test_an_empty_folder_is_filled_also_through_a_link(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty", target_is_directory=True)
    write(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path / "empty") == {SHARD: b"1", INFO_FILE: b"1"}


def test_a_file_on_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=re.escape(str(tmp_path / "file"))):
        write(tmp_path / "file" / "records", b"1")


def test_where_a_file_system_is_mounted_is_refused_before_the_work():
    with pytest.raises(OutputFolderError, match="a file system is mounted"):
        write("/proc", b"1")


def test_staging_of_killed_jobs_is_cleared_away_and_nothing_like_it(tmp_path):
    for name in ("incomplete-0123abcd", "incomplete-notes", "incomplete"):
        (tmp_path / f"records.{name}").mkdir()
        (tmp_path / f"records.{name}" / "x").touch()
    write(tmp_path / "records", b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "records",
        "records.incomplete",
        "records.incomplete-notes",
    ]


def test_jobs_never_share_a_staging_folder(tmp_path):
    """A worker that outlives its job must not write into the next one's."""
    seen = set()
    for _ in range(3):
        with replacing(str(tmp_path / "records"), overwrite=True) as staging:
            seen.add(staging)
            files.write_whole(f"{staging}/{INFO_FILE}", b"1")
    assert len(seen) == 3


def test_a_second_job_on_one_folder_is_refused_and_the_first_goes_on(tmp_path):
    output_dir = str(tmp_path / "records")
    with replacing(output_dir, overwrite=False) as staging:
        files.write_whole(f"{staging}/{SHARD}", b"1")
        with (
            pytest.raises(OutputFolderError, match="Another job is writing to this --output_dir"),
            replacing(output_dir, overwrite=True),
        ):
            pass
        files.write_whole(f"{staging}/{INFO_FILE}", b"1")
    assert tree(tmp_path / "records") == {SHARD: b"1", INFO_FILE: b"1"}


def test_where_the_last_rename_fails_the_old_records_are_back(tmp_path):
    write(tmp_path / "records", b"old")
    before = tree(tmp_path)
    with pytest.raises(OSError), replacing(str(tmp_path / "records"), overwrite=True) as staging:
        os.rmdir(staging)
    assert tree(tmp_path) == before


def test_killed_between_two_renames_the_old_records_are_still_there(tmp_path):
    write(tmp_path / "records", b"old")
    os.rename(tmp_path / "records", tmp_path / "records.replaced")
    with pytest.raises(RuntimeError), replacing(str(tmp_path / "records"), overwrite=True):
        raise RuntimeError
    assert tree(tmp_path / "records") == {SHARD: b"old", INFO_FILE: b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_killed_before_the_old_records_were_deleted_they_are_now(tmp_path):
    write(tmp_path / "records", b"old")
    os.rename(tmp_path / "records", tmp_path / "records.replaced")
    os.mkdir(tmp_path / "records")
    write(tmp_path / "records", b"new")
    assert tree(tmp_path) == {f"records/{name}": b"new" for name in (SHARD, INFO_FILE)}


def test_overwriting_damaged_records(pairs_dir, tmp_path):
    options = JobOptions(str(pairs_dir), str(tmp_path / "records"), overwrite=True)
    job.run(options)
    (tmp_path / "records" / INFO_FILE).write_text("{")
    assert job.run(options) == load_info(str(tmp_path / "records"))


class ObjectStore(FileSystem):
    """An object store in memory: names with slashes, no folders, no rename of many at once."""

    objects: dict[str, bytes] = {}  # noqa: RUF012

    @classmethod
    def scheme(cls):
        return "store"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        return path.rpartition("/")[0], path.rpartition("/")[2]

    def mkdirs(self, path):
        pass

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        for name, data in list(self.objects.items()):
            if name.startswith(dir_or_prefix):
                yield FileMetadata(name, len(data))

    def create(self, path, mime_type="", compression_type=""):
        return _Object(self.objects, path)

    def open(self, path, mime_type="", compression_type=""):
        raise NotImplementedError

    def copy(self, sources, destinations):
        raise NotImplementedError

    def rename(self, sources, destinations):
        for source, destination in zip(sources, destinations, strict=True):
            self.objects[destination] = self.objects.pop(source)

    def exists(self, path):
        return path in self.objects

    def size(self, path):
        return len(self.objects[path])

    def last_updated(self, path):
        return 0

    def checksum(self, path):
        return ""

    def metadata(self, path):
        return FileMetadata(path, len(self.objects[path]))

    def delete(self, paths):
        for result in self.match(paths):
            if not result.metadata_list:
                raise BeamIOError(f"nothing to delete: {result.pattern}")
            for found in result.metadata_list:
                del self.objects[found.path]


class _Object:
    def __init__(self, objects, path):
        self._objects, self._path, self._data = objects, path, b""

    def __enter__(self):
        return self

    def write(self, data):
        self._data += data

    def __exit__(self, *_):
        self._objects[self._path] = self._data


class TestObjectStore:
    @pytest.fixture
    def objects(self):
        ObjectStore.objects.clear()
        assert FileSystems.get_filesystem("store://x") is not None
        return ObjectStore.objects

    @pytest.mark.parametrize("folder", ["store://bucket/records", "store://bucket/re[1]cords"])
    def test_records_are_moved_the_sign_last_and_replaced_the_sign_first(self, objects, folder):
        history: list[bool] = []

        class Watched(dict):
            def __setitem__(self, name, data):
                super().__setitem__(name, data)
                self.look()

            def __delitem__(self, name):
                super().__delitem__(name)
                self.look()

            def look(self):
                """With the sign there must be all of the old or all of the new."""
                inside = {n: d for n, d in self.items() if n.startswith(f"{folder}/")}
                if f"{folder}/{INFO_FILE}" in inside:
                    history.append(len(inside) == 4 and len(set(inside.values())) == 1)

        ObjectStore.objects = Watched()
        shard = "streets-train.tfrecord-00000-of-00001"
        names = (INFO_FILE, "bad_pairs.jsonl", "features.json", shard)
        try:
            for content in (b"old", b"new"):
                write(folder, content, overwrite=content == b"new", names=names)
                found = ObjectStore.objects
                assert found == {f"{folder}/{name}": content for name in names}
            assert history
            assert all(history)
            with pytest.raises(OutputFolderError, match="is not empty"):
                write(folder, b"again")
        finally:
            ObjectStore.objects = objects

    def test_nothing_else_is_deleted(self, objects):
        objects["store://bucket/pairs/train/1.jpg"] = b"mine"
        for overwrite in (False, True):
            with pytest.raises(OutputFolderError):
                write("store://bucket/pairs", b"new", overwrite)
        assert objects == {"store://bucket/pairs/train/1.jpg": b"mine"}

    def test_after_a_fault_and_after_a_kill_nothing_is_left(self, objects):
        objects["store://bucket/records.incomplete-0123abcd/a"] = b"killed"
        objects["store://bucket/records.incomplete-notes/a"] = b"mine"
        with pytest.raises(RuntimeError), replacing("store://bucket/records", False) as staging:
            files.write_whole(f"{staging}/{SHARD}", b"new")
            raise RuntimeError
        assert objects == {"store://bucket/records.incomplete-notes/a": b"mine"}
