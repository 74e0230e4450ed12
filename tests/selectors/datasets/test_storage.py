"""What a uri names, what may be read, and files that change."""

from __future__ import annotations

import glob
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import pytest

from tamis.selectors.datasets import LocalStorage
from tamis.selectors.errors import Forbidden, InputsChanged, Invalid

NASTY_NAMES = [
    "a b.parquet",
    "a[1].parquet",
    "x*.parquet",
    "what?.parquet",
    "50%.parquet",
    "ü漢.parquet",
    "a#b.parquet",
]


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(storage: LocalStorage, uri: str) -> list[str]:
    return [Path(file.path).name for file in storage.expand(uri)]


class TestExpand:
    def test_globs_are_sorted_by_uri(self, tmp_path: Path) -> None:
        for name in ("b.x", "a.x", "c.y", "sub/d.x", "sub/deep/e.x"):
            touch(tmp_path / name)
        storage = LocalStorage()
        assert names(storage, f"{tmp_path}/*.x") == ["a.x", "b.x"]
        assert names(storage, f"file://{tmp_path}/**/*.x") == ["a.x", "b.x", "d.x", "e.x"]
        assert names(storage, f"file://localhost{tmp_path}/[ab].x") == ["a.x", "b.x"]

    def test_relative_paths_start_at_the_base(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        touch(tmp_path / "base" / "a.x")
        touch(tmp_path / "b.x")
        assert names(LocalStorage(base=tmp_path / "base"), "*.x") == ["a.x"]
        monkeypatch.chdir(tmp_path)
        assert names(LocalStorage(), "b.x") == ["b.x"]
        assert names(LocalStorage(base=tmp_path / "base"), "../b.x") == ["b.x"]

    @pytest.mark.parametrize("name", NASTY_NAMES)
    def test_any_name_goes_there_and_back(self, tmp_path: Path, name: str) -> None:
        path = touch(tmp_path / name)
        touch(tmp_path / "a1.parquet")
        touch(tmp_path / "xy.parquet")
        storage = LocalStorage()
        [file] = storage.expand(str(path))
        assert file.path == str(path)
        assert storage.expand(file.uri) == [file]
        assert file.uri.isascii()

    def test_percent_encoding_in_globs(self, tmp_path: Path) -> None:
        touch(tmp_path / "a b" / "x*.p")
        touch(tmp_path / "a b" / "xy.p")
        storage = LocalStorage()
        assert names(storage, f"file://{tmp_path}/a%20b/*.p") == ["x*.p", "xy.p"]
        assert names(storage, f"file://{tmp_path}/a%20b/x%2A.p") == ["x*.p"]

    @pytest.mark.parametrize("uri", ["s3://bucket/a.parquet", "http://host/a", "hf://datasets/x", "gs://b/c"])
    def test_other_schemes_are_named(self, uri: str) -> None:
        with pytest.raises(Invalid, match="is not served; local paths are"):
            LocalStorage().expand(uri)

    @pytest.mark.parametrize(
        ("uri", "text"),
        [
            ("missing.parquet", "no file"),
            ("*.missing", "matches no file"),
            ("file://host/a.parquet", "names no local path"),
            ("file://a.parquet", "names no local path"),
            ("a\0b", "NUL"),
            ("\ud800", "surrogate"),
            ("file:///a%00b", "NUL"),
            ("folder", "is a folder"),
            ("pipe", "not a regular file"),
            ("folder/../missing", "no file"),
            ("dangling", "no file"),
        ],
    )
    def test_what_names_nothing(self, tmp_path: Path, uri: str, text: str) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "dangling").symlink_to(tmp_path / "gone")
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(Invalid, match=text):
            LocalStorage(base=tmp_path).expand(uri)

    def test_a_glob_that_meets_what_cannot_be_read_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To pass it over would shift the row numbers of all later files; following the advice works."""
        for name in ("a.x", "c.x"):
            touch(tmp_path / name)
        (tmp_path / "b.x").symlink_to(tmp_path / "gone")
        (tmp_path / "d.x").symlink_to("d.x")
        storage = LocalStorage()
        with pytest.raises(Invalid, match=r"b\.x .*is a link to .*gone.* matches it by its name: .* So do 1 more\."):
            storage.expand(f"{tmp_path}/*.x")
        (tmp_path / "b.x").unlink()
        with pytest.raises(Invalid, match=r"d\.x .*can't be read: Too many levels of symbolic links"):
            storage.expand(f"{tmp_path}/*.x")
        (tmp_path / "d.x").unlink()  # "remove it"
        assert names(storage, f"{tmp_path}/*.x") == ["a.x", "c.x"]

    def test_a_file_that_vanishes_while_a_glob_is_expanded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a.x", "b.x"):
            touch(tmp_path / name)
        really = os.stat

        def vanishing(path: Any, **options: Any) -> os.stat_result:
            if str(path).endswith("b.x"):
                raise FileNotFoundError(2, "No such file or directory", path)
            return really(path, **options)

        monkeypatch.setattr(os, "stat", vanishing)
        with pytest.raises(Invalid, match=r"There is no file .*b\.x"):
            LocalStorage().expand(f"{tmp_path}/*.x")

    @pytest.mark.parametrize("pattern", ["*/*.x", "*/b.x", "**/*.x"])
    def test_a_folder_that_cannot_be_entered_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
    ) -> None:
        touch(tmp_path / "open" / "b.x")
        (tmp_path / "closed").mkdir()
        (tmp_path / "file").touch()  # matched as a folder by name, but a file holds nothing
        scandir, lstat = os.scandir, os.lstat

        def checked(path: str, folder: str) -> str:
            if "closed" in folder:
                raise PermissionError(13, "Permission denied", folder)
            return path

        monkeypatch.setattr(os, "scandir", lambda path: scandir(checked(path, path)))
        monkeypatch.setattr(os, "lstat", lambda path: lstat(checked(path, str(Path(path).parent))))
        with pytest.raises(Invalid, match=r"closed can't be read: Permission denied\. .* matches it by its name"):
            LocalStorage().expand(f"{tmp_path}/{pattern}")
        monkeypatch.undo()
        (tmp_path / "closed").rmdir()
        assert names(LocalStorage(), f"{tmp_path}/{pattern}") == ["b.x"]
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        if pattern != "**/*.x":  # ** follows no link
            with pytest.raises(Invalid, match=r"link can't be read: No such file or directory"):
                LocalStorage().expand(f"{tmp_path}/{pattern}")

    def test_globs_pass_over_folders_and_pipes(self, tmp_path: Path) -> None:
        (tmp_path / "a.x").mkdir()
        os.mkfifo(tmp_path / "b.x")
        touch(tmp_path / "c.x")
        assert names(LocalStorage(), f"{tmp_path}/*.x") == ["c.x"]

    def test_globs_tell_of_what_can_not_be_looked_at(self, tmp_path: Path) -> None:
        touch(tmp_path / "a.x")
        (tmp_path / "c.x").symlink_to("y" * 300)
        with pytest.raises(Invalid, match=r"c\.x.* can't be read"):
            LocalStorage().expand(f"{tmp_path}/*.x")

    def test_too_many_matches(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in "abc":
            touch(tmp_path / name)
        with pytest.raises(Invalid, match="more than 2 files"):
            LocalStorage(max_files=2).expand(f"{tmp_path}/*")
        monkeypatch.setattr("tamis.selectors.datasets.storage.local.MAX_LOOKED", 2)
        with pytest.raises(Invalid, match="looks at more than 2 files"):
            LocalStorage().expand(f"{tmp_path}/*.x")

    @pytest.mark.parametrize(
        "pattern",
        [
            *("*", "*.x", "?.x", "[ab].x", "[!a].x", ".*", ".h*", "**", "**/*.x", "**/b/**/*.x", "**/**/*.x", "*/b/*"),
            *("*/../a.x", "b/**", "./*.x", "*/", "nothing/*", "a.x/*", "**/b", "[", "a[", "*[]"),
        ],
    )
    def test_globs_match_as_pythons_do(self, tmp_path: Path, pattern: str) -> None:
        for name in ("a.x", "b.x", ".h.x", "b/c.x", "b/b/d.x", ".hidden/e.x", "b/.f.x", "[", "a["):
            touch(tmp_path / name)
        matches = glob.glob(f"{tmp_path}/{pattern}", recursive=True)  # noqa: PTH207 - the very one to compare with
        wanted = {path for path in matches if Path(path).is_file()}
        try:
            found = {file.path for file in LocalStorage().expand(f"{tmp_path}/{pattern}")}
        except Invalid:
            found = set()
        assert found == {os.path.realpath(path) for path in wanted}

    def test_links_that_go_in_circles(self, tmp_path: Path) -> None:
        touch(tmp_path / "data" / "a.x")
        for name in ("one", "two", "three"):
            (tmp_path / "data" / name).symlink_to(tmp_path / "data")  # 3^40 ways, for whoever follows them
        assert names(LocalStorage(), f"{tmp_path}/**/*.x") == ["a.x"]
        (tmp_path / "data" / "everything").symlink_to("/")
        assert names(LocalStorage([tmp_path]), f"{tmp_path}/**/*.x") == ["a.x"]

    def test_a_path_through_a_link_and_back_is_resolved(self, tmp_path: Path) -> None:
        touch(tmp_path / "other" / "a.x", b"right")
        (tmp_path / "other" / "deep").mkdir()
        touch(tmp_path / "a.x", b"wrong one")
        (tmp_path / "link").symlink_to(tmp_path / "other" / "deep")
        for uri in (f"{tmp_path}/link/../a.x", f"{tmp_path}/link/../*.x"):
            [file] = LocalStorage().expand(uri)
            assert file.size == len(b"right")
            assert LocalStorage().expand(file.uri) == [file]


class TestRoots:
    @pytest.fixture
    def storage(self, tmp_path: Path) -> LocalStorage:
        touch(tmp_path / "data" / "a.x")
        touch(tmp_path / "data" / "sub" / "b.x")
        touch(tmp_path / "secret" / "s.x")
        touch(tmp_path / "data-other" / "o.x")
        (tmp_path / "data" / "escape").symlink_to(tmp_path / "secret")
        (tmp_path / "data" / "escape.x").symlink_to(tmp_path / "secret" / "s.x")
        (tmp_path / "data" / "loop").symlink_to("..")
        (tmp_path / "data" / "inside.y").symlink_to(tmp_path / "data" / "a.x")
        (tmp_path / "alias").symlink_to(tmp_path / "data")
        return LocalStorage([tmp_path / "alias"], setting="TAMIS_DATA_ROOTS")  # a root may be a link itself

    @pytest.mark.parametrize("uri", ["data/a.x", "alias/sub/*.x", "data/**/b.x", "data/inside.y", "data/sub/../a.x"])
    def test_inside(self, tmp_path: Path, storage: LocalStorage, uri: str) -> None:
        assert len(storage.expand(f"{tmp_path}/{uri}")) == 1

    @pytest.mark.parametrize(
        "uri",
        [
            "secret/s.x",
            "secret/missing.x",
            "secret/*.x",
            "secret/*.missing",
            "data/../secret/s.x",
            "data/../secret/*",
            "data/*/../../secret/s.x",
            "data/escape.x",
            "data/escape/s.x",
            "data/escape/*.x",
            "data/*.x",
            "data/**/*.x",
            "data-other/o.x",
            "missing",
            "*",
            "data/*/s.x",
            "data/[e]scape/*.x",
            "data/escape/**",
            "data/loop/secret/s.x",
        ],
    )
    @pytest.mark.parametrize("scheme", ["", "file://"])
    def test_outside(self, tmp_path: Path, storage: LocalStorage, uri: str, scheme: str) -> None:
        with pytest.raises(Forbidden, match=r"TAMIS_DATA_ROOTS|after a wildcard"):
            storage.expand(f"{scheme}{tmp_path}/{uri}")

    def test_encoded_dots(self, tmp_path: Path, storage: LocalStorage) -> None:
        with pytest.raises(Forbidden):
            storage.expand(f"file://{tmp_path}/data/%2e%2e/secret/s.x")

    def test_no_root_allows_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(Forbidden, match="TAMIS_DATA_ROOTS is empty"):
            LocalStorage([], setting="TAMIS_DATA_ROOTS").expand(str(touch(tmp_path / "a.x")))

    @pytest.mark.parametrize("roots", [None, [Path("/")]])
    @pytest.mark.parametrize(
        "uri",
        ["/proc/self/environ", "/proc/self/*", "/proc/../proc/kcore", "/tmp/../proc/self/environ", "/sys/kernel/notes"],
    )
    def test_the_kernel_is_no_data(self, tmp_path: Path, roots: list[Path] | None, uri: str) -> None:
        (tmp_path / "link").symlink_to("/proc/self")
        for one in (uri, f"{tmp_path}/link/environ", f"{tmp_path}/link/*"):
            with pytest.raises(Forbidden, match="kernel"):
                LocalStorage(roots).expand(one)

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.x")
        (tmp_path / "device.x").symlink_to("/dev/zero")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket.x"))
            for name in ("pipe.x", "socket.x", "device.x"):
                with pytest.raises(Invalid, match="not a regular file"):
                    LocalStorage().expand(f"{tmp_path}/{name}")
            with pytest.raises(Forbidden):
                LocalStorage([tmp_path]).expand(f"{tmp_path}/device.x")
        with pytest.raises(Invalid, match=r"is a folder"):
            LocalStorage([tmp_path]).expand(str(tmp_path))


class TestOpen:
    @pytest.mark.parametrize("mapped", [True, False])
    @pytest.mark.parametrize("content", [b"", b"hello"])
    def test_random_access(self, tmp_path: Path, content: bytes, mapped: bool) -> None:
        storage = LocalStorage()
        [file] = storage.expand(str(touch(tmp_path / "a", content)))
        with storage.open(file, mapped=mapped) as source:
            assert source.read() == content
            source.seek(len(content) // 2)
            assert source.read(2) == content[len(content) // 2 :][:2]

    @pytest.mark.parametrize("mapped", [True, False])
    def test_replaced(self, tmp_path: Path, mapped: bool) -> None:
        storage = LocalStorage()
        path = touch(tmp_path / "a", b"1")
        [file] = storage.expand(str(path))
        touch(tmp_path / "b", b"2").rename(path)
        with pytest.raises(InputsChanged, match="changed or replaced"):
            storage.open(file, mapped=mapped)

    def test_replaced_by_a_link(self, tmp_path: Path) -> None:
        storage = LocalStorage()
        path = touch(tmp_path / "a", b"1")
        [file] = storage.expand(str(path))
        path.rename(tmp_path / "moved")
        path.symlink_to(tmp_path / "moved")  # the same inode, but no longer what was checked
        with pytest.raises(InputsChanged):
            storage.open(file)

    def test_a_folder_replaced_by_a_link(self, tmp_path: Path) -> None:
        """What is checked is what is opened: the file behind the link has the same inode, size and times."""
        storage = LocalStorage([tmp_path / "data"])
        path = touch(tmp_path / "data" / "sub" / "deep" / "a", b"1")
        [file] = storage.expand(str(path))
        (tmp_path / "data" / "sub").rename(tmp_path / "outside")
        (tmp_path / "data" / "sub").symlink_to(tmp_path / "outside")
        with pytest.raises(InputsChanged):
            storage.open(file)

    def test_replaced_by_a_pipe(self, tmp_path: Path) -> None:
        path = touch(tmp_path / "a", b"1")
        [file] = LocalStorage().expand(str(path))
        path.unlink()
        os.mkfifo(path)  # whoever opens it the plain way waits for a writer for ever
        with pytest.raises(InputsChanged):
            LocalStorage().open(file)

    def test_a_folder_that_may_be_crossed_but_not_listed(self, tmp_path: Path) -> None:
        path = touch(tmp_path / "closed" / "a", b"1")
        (tmp_path / "closed").chmod(0o311)
        [file] = LocalStorage().expand(str(path))
        with LocalStorage().open(file) as source:
            assert source.read() == b"1"
        (tmp_path / "closed").chmod(0o755)

    def test_gone(self, tmp_path: Path) -> None:
        storage = LocalStorage()
        path = touch(tmp_path / "a")
        [file] = storage.expand(str(path))
        path.unlink()
        assert storage.version(file) is None
        with pytest.raises(InputsChanged, match="can't be opened"):
            storage.open(file)

    def test_versions(self, tmp_path: Path) -> None:
        storage = LocalStorage()
        path = touch(tmp_path / "a", b"1")
        [file] = storage.expand(str(path))
        assert storage.version(file) == file.version
        os.utime(path, ns=(1, 1))
        assert storage.version(file) != file.version

    def test_pickles(self, tmp_path: Path) -> None:
        storage = LocalStorage([tmp_path])
        path = str(touch(tmp_path / "a"))
        assert pickle.loads(pickle.dumps(storage)).expand(path) == storage.expand(path)
