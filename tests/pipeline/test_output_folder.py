"""Output folders: whole or as they were, and nothing of the user's is ever deleted."""

import io
import os
import re
import shutil

import pytest
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from apache_beam.io.filesystems import FileSystems

from pipeline import files, job
from pipeline.dataset_info import INFO_FILE, load_info
from pipeline.errors import UserError
from pipeline.job import JobOptions
from pipeline.output_folder import OutputFolderError, replacing

SHARD = "pairs-train.tfrecord-00000-of-00001"
FINGERPRINT, OTHER = "0123456789abcdef", "fedcba9876543210"


def tree(folder) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def write(output_dir, content: bytes, overwrite=False, names=(SHARD, INFO_FILE)) -> None:
    with replacing(str(output_dir), overwrite, FINGERPRINT) as staging:
        for name in names:
            files.write_whole(f"{staging.records}/{name}", content)


def test_appears_whole_at_the_end(tmp_path):
    output_dir = tmp_path / "a" / "records"
    with replacing(str(output_dir), False, FINGERPRINT) as staging:
        files.write_whole(f"{staging.records}/{INFO_FILE}", b"1")
        files.write_whole(f"{staging.work}/notes", b"2")
        assert not output_dir.exists()
    assert tree(tmp_path) == {f"a/records/{INFO_FILE}": b"1"}


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_after_a_fault_the_output_is_as_it_was(tmp_path, fault):
    write(tmp_path / "records", b"old")
    before = tree(tmp_path / "records")
    with pytest.raises(fault), replacing(str(tmp_path / "records"), True, FINGERPRINT) as staging:
        files.write_whole(f"{staging.records}/{SHARD}", b"new")
        raise fault
    assert tree(tmp_path / "records") == before


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_fault_before_the_first_shard_leaves_nothing(tmp_path, fault):
    with pytest.raises(fault), replacing(str(tmp_path / "records"), True, FINGERPRINT) as staging:
        files.write_whole(f"{staging.work}/notes", b"new")
        raise fault
    assert not list(tmp_path.iterdir())


def stop_early(output_dir, fingerprint=FINGERPRINT) -> None:
    """Leaves a shard, and files that were being written."""
    with pytest.raises(KeyboardInterrupt), replacing(str(output_dir), True, fingerprint) as staging:
        files.write_whole(f"{staging.records}/{SHARD}", b"1")
        files.write_whole(f"{staging.records}/{INFO_FILE}.0123.tmp", b"half")
        files.write_whole(f"{staging.work}/summary", b"2")
        files.write_whole(f"{staging.work}/{SHARD}.0123.tmp", b"half")
        raise KeyboardInterrupt


def test_the_same_job_finds_again_what_it_left_and_publishes_nothing_half_written(tmp_path):
    stop_early(tmp_path / "records")
    (tmp_path / "records.incomplete" / "lock").touch()  # as after a kill
    with replacing(str(tmp_path / "records"), False, FINGERPRINT) as staging:
        assert files.read_bounded(f"{staging.records}/{SHARD}") == b"1"
        assert os.listdir(staging.work) == ["summary"]
        files.write_whole(f"{staging.records}/{INFO_FILE}", b"1")
    assert tree(tmp_path) == {f"records/{SHARD}": b"1", f"records/{INFO_FILE}": b"1"}
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_another_job_finds_nothing_and_deletes_it(tmp_path):
    stop_early(tmp_path / "records", OTHER)
    with replacing(str(tmp_path / "records"), False, FINGERPRINT) as staging:
        assert sorted(os.listdir(tmp_path / "records.incomplete")) == [FINGERPRINT, "lock"]
        assert not os.listdir(staging.records) + os.listdir(staging.work)
        files.write_whole(f"{staging.records}/{INFO_FILE}", b"1")
    assert tree(tmp_path) == {f"records/{INFO_FILE}": b"1"}


def test_a_refused_job_deletes_nothing(tmp_path):
    write(tmp_path / "records", b"old")
    stop_early(tmp_path / "records", OTHER)
    before = tree(tmp_path)
    with pytest.raises(OutputFolderError, match="is not empty"):
        write(tmp_path / "records", b"new")
    assert tree(tmp_path) == before


def test_killed_after_publication_a_refused_job_tidies_up(tmp_path):
    write(tmp_path / "records", b"old")
    work = tmp_path / "records.incomplete" / FINGERPRINT / "work"
    work.mkdir(parents=True)
    (work / "summary").touch()
    with pytest.raises(OutputFolderError, match="is not empty"):
        write(tmp_path / "records", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


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
    with pytest.raises(OutputFolderError, match=f"holds '{re.escape(content)}' beside the records"):
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


def test_what_only_looks_like_a_leftover_is_kept(tmp_path):
    mine = ("records.incomplete/notes", "records.incomplete/0123abcd/x", "records.incomplete-1/x")
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write(tmp_path / "records", b"1")
    assert sorted(tree(tmp_path)) == sorted([f"records/{SHARD}", f"records/{INFO_FILE}", *mine])


@pytest.mark.parametrize("fingerprint", [FINGERPRINT, OTHER])
def test_a_second_job_on_one_folder_is_refused_and_the_first_goes_on(tmp_path, fingerprint):
    output_dir = str(tmp_path / "records")
    with replacing(output_dir, False, FINGERPRINT) as staging:
        files.write_whole(f"{staging.records}/{SHARD}", b"1")
        with (
            pytest.raises(OutputFolderError, match="Another job is writing to this --output_dir"),
            replacing(output_dir, True, fingerprint),
        ):
            pass
        files.write_whole(f"{staging.records}/{INFO_FILE}", b"1")
    assert tree(tmp_path / "records") == {SHARD: b"1", INFO_FILE: b"1"}


def test_a_lock_that_its_holder_has_deleted_is_no_lock(tmp_path, monkeypatch):
    """Two jobs would hold one each: the deleted file, and the one made after it."""
    really_open = os.open

    def open_then_delete(path, *arguments):
        descriptor = really_open(path, *arguments)
        os.unlink(path)
        return descriptor

    monkeypatch.setattr(os, "open", open_then_delete)
    with pytest.raises(OutputFolderError, match="Another job is writing"):
        write(tmp_path / "records", b"1")


def test_jobs_on_neighbouring_folders_do_not_mind_each_other(tmp_path):
    with replacing(str(tmp_path / "records"), False, FINGERPRINT) as staging:
        write(tmp_path / "records2", b"2")
        files.write_whole(f"{staging.records}/{INFO_FILE}", b"1")
    assert tree(tmp_path / "records") == {INFO_FILE: b"1"}


def test_where_the_last_rename_fails_the_old_records_are_back(tmp_path):
    write(tmp_path / "records", b"old")
    before = tree(tmp_path)
    output_dir = str(tmp_path / "records")
    with pytest.raises(OSError), replacing(output_dir, True, FINGERPRINT) as staging:
        os.rmdir(staging.records)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_while_the_job_works_is_not_deleted(tmp_path, overwrite):
    output_dir = tmp_path / "records"
    with (
        pytest.raises(OutputFolderError, match=r"Name another|name another"),
        replacing(str(output_dir), overwrite, FINGERPRINT) as staging,
    ):
        files.write_whole(f"{staging.records}/{INFO_FILE}", b"1")
        output_dir.mkdir()
        (output_dir / "thesis.txt").write_bytes(b"of somebody else")
    assert tree(output_dir) == {"thesis.txt": b"of somebody else"}
    shutil.rmtree(output_dir)
    with replacing(str(output_dir), overwrite, FINGERPRINT) as staging:
        assert files.read_bounded(f"{staging.records}/{INFO_FILE}") == b"1"


def test_killed_between_two_renames_the_old_records_are_still_there(tmp_path):
    write(tmp_path / "records", b"old")
    os.rename(tmp_path / "records", tmp_path / "records.replaced")
    with pytest.raises(RuntimeError), replacing(str(tmp_path / "records"), True, FINGERPRINT):
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
        return io.BytesIO(self.objects[path])

    def copy(self, sources, destinations):
        for source, destination in zip(sources, destinations, strict=True):
            self.objects[destination] = self.objects[source]

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

    def test_the_same_job_finds_again_what_it_left_and_another_deletes_it(self, objects):
        objects["store://bucket/records.incomplete/notes/a"] = b"mine"
        with (
            pytest.raises(RuntimeError),
            replacing("store://bucket/records", False, FINGERPRINT) as staging,
        ):
            files.write_whole(f"{staging.records}/{SHARD}", b"new")
            objects[f"{staging.work}/{SHARD}.0123.tmp"] = b"half"
            raise RuntimeError
        with (
            pytest.raises(RuntimeError),
            replacing("store://bucket/records", False, FINGERPRINT) as staging,
        ):
            raise RuntimeError
        assert objects == {
            "store://bucket/records.incomplete/notes/a": b"mine",
            f"{staging.records}/{SHARD}": b"new",
        }
        with replacing("store://bucket/records", False, OTHER):
            assert list(objects) == ["store://bucket/records.incomplete/notes/a"]

    def test_killed_while_it_published_it_can_be_run_again(self, objects, monkeypatch):
        moved = []

        def copy(self, sources, destinations):
            if len(moved) == 1:
                raise KeyboardInterrupt
            moved.extend(destinations)
            really_copy(self, sources, destinations)

        really_copy = ObjectStore.copy
        monkeypatch.setattr(ObjectStore, "copy", copy)
        with pytest.raises(KeyboardInterrupt):
            write("store://bucket/records", b"1")
        assert f"store://bucket/records/{SHARD}" in objects
        assert f"store://bucket/records/{INFO_FILE}" not in objects
        monkeypatch.undo()
        write("store://bucket/records", b"1")
        assert objects == {f"store://bucket/records/{n}": b"1" for n in (SHARD, INFO_FILE)}

    def test_shards_without_their_sign_that_no_job_left_are_kept(self, objects):
        objects[f"store://bucket/records/{SHARD}"] = b"mine"
        for overwrite in (False, True):
            with pytest.raises(OutputFolderError):
                write("store://bucket/records", b"new", overwrite)
        assert objects == {f"store://bucket/records/{SHARD}": b"mine"}

    def test_a_whole_job_reads_and_writes_by_beams_file_systems_alone(
        self, objects, pairs_dir, records_dir, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)  # where names of objects would be taken for files
        for path in pairs_dir.glob("*/*"):
            objects[f"store://bucket/pairs/{path.relative_to(pairs_dir)}"] = path.read_bytes()
        inputs = dict(objects)
        job.run(JobOptions("store://bucket/pairs", "store://bucket/records", num_shards=2))
        names = (b"store://bucket/pairs", str(pairs_dir).encode())  # the description tells it
        written = {
            name.removeprefix("store://bucket/records/"): data.replace(*names)
            for name, data in objects.items()
            if name not in inputs
        }
        assert written == tree(records_dir)
        assert not list(tmp_path.iterdir())
