"""The mounted directory, changed as a kubelet changes it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from pathlib import Path

import pytest

from wesher_agent.kube import mounted as mounted_module
from wesher_agent.kube.mounted import Mounted, MountedDirectory
from wesher_common.errors import InvalidSpec
from wesher_common.news import MAX_NEWS_BYTES, NewsKind, pack_news

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
DOCUMENT = json.dumps({"version": 1, "name": "m", "uid": "u", "overlayCIDR": "10.9.0.0/16"})


def mount(directory: Path, version: str, **files: str | bytes) -> None:
    """Show files through a symbolic link that is swapped, as the kubelet's atomic writer does."""
    real = directory / f"..{version}"
    real.mkdir(parents=True)
    for name, content in files.items():
        path = real / name.replace("_", "-").replace("-json", ".json")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    swap = directory / "..data_tmp"
    swap.symlink_to(real.name)
    swap.rename(directory / "..data")
    for path in real.iterdir():
        shown = directory / path.name
        if not shown.is_symlink():
            shown.symlink_to(Path("..data") / path.name)


def test_key_ring_and_document_are_read(tmp_path: Path) -> None:
    mount(tmp_path, "1", mesh_json=DOCUMENT, cluster_key=OLD, accepted_keys=f"{NEW}\n")
    content = MountedDirectory(tmp_path).read()
    assert content.document.name == "m"
    assert [key.reveal_base64() for key in content.ring] == [OLD, NEW]


def test_a_swapped_directory_is_seen_and_one_that_is_the_same_is_not(tmp_path: Path) -> None:
    mount(tmp_path, "1", mesh_json=DOCUMENT, cluster_key=OLD)
    mounted = MountedDirectory(tmp_path)
    assert mounted.has_changed()
    mounted.read()
    assert not mounted.has_changed()
    mount(tmp_path, "2", mesh_json=DOCUMENT, cluster_key=NEW, accepted_keys=OLD)
    assert mounted.has_changed()
    assert mounted.read().ring.primary.reveal_base64() == NEW


def test_a_key_ring_that_is_exchanged_while_it_is_read_is_not_mixed_with_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the two, each has both keys, and a mixture could have one of them only."""
    mount(tmp_path, "1", mesh_json=DOCUMENT, cluster_key=OLD, accepted_keys=NEW)
    mounted, read = MountedDirectory(tmp_path), Path.read_text

    def read_and_exchange(path: Path, *args: str) -> str:
        text = read(path, *args)
        if path.name == "accepted-keys" and text == NEW:
            mount(tmp_path, "2", mesh_json=DOCUMENT, cluster_key=NEW, accepted_keys=OLD)
        return text

    monkeypatch.setattr(Path, "read_text", read_and_exchange)
    assert [key.reveal_base64() for key in mounted.read().ring] == [NEW, OLD]
    assert not mounted.has_changed()


def test_a_nudge_is_told_once_and_apart_from_the_other_files(tmp_path: Path) -> None:
    mount(tmp_path, "1", mesh_json=DOCUMENT, cluster_key=OLD, nudge="abc.1")
    mounted = MountedDirectory(tmp_path)
    assert not mounted.take_nudge(), "an agent that starts asks anyway"
    mount(tmp_path, "2", mesh_json=DOCUMENT, cluster_key=NEW, nudge="abc.1")
    assert not mounted.take_nudge()
    mount(tmp_path, "3", mesh_json="{", cluster_key=NEW, nudge="abc.2")
    with pytest.raises(InvalidSpec):
        mounted.read()
    assert mounted.take_nudge()
    assert not mounted.take_nudge()


def test_news_are_read_and_damaged_ones_keep_nothing_else_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = ((NewsKind.STATEMENT, b"statement"), (NewsKind.RING, b"ring"))
    mount(tmp_path, "1", mesh_json=DOCUMENT, cluster_key=OLD)
    mounted = MountedDirectory(tmp_path)
    assert mounted.read().news == (), "of an older operator"
    mount(tmp_path, "2", mesh_json=DOCUMENT, cluster_key=OLD, news=pack_news(items))
    assert mounted.has_changed()
    assert mounted.read().news == items
    for version, damaged in (("3", b"\1"), ("4", b"\2"), ("5", bytes(MAX_NEWS_BYTES + 1))):
        mount(tmp_path, version, mesh_json=DOCUMENT, cluster_key=NEW, news=damaged)
        content = mounted.read()
        assert (content.news, content.ring.primary.reveal_base64()) == (items, NEW)
    assert caplog.messages == [
        f"mounted news rejected: keeping the previous ones error={reason}"
        for reason in ("news-truncated", "news-size")
    ]


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"cluster_key": OLD}, "mesh.json: is missing in"),
        ({"mesh_json": DOCUMENT}, "cluster-key: is missing in"),
        ({"mesh_json": DOCUMENT, "cluster_key": "x"}, "cluster-key: must be standard base64"),
        (
            {"mesh_json": DOCUMENT, "cluster_key": OLD, "accepted_keys": f"{NEW}\nx"},
            "accepted-keys line 2: must be",
        ),
        ({"mesh_json": "{", "cluster_key": OLD}, "mesh.json: is not JSON"),
        ({"mesh_json": DOCUMENT.replace("10.9", "10.300"), "cluster_key": OLD}, "mesh.json overlayCIDR"),
    ],
)
def test_what_is_missing_or_broken_is_named_once_until_it_changes(
    tmp_path: Path, files: dict[str, str], line: str
) -> None:
    mount(tmp_path, "1", **files)
    mounted = MountedDirectory(tmp_path)
    with pytest.raises(InvalidSpec) as error:
        mounted.read()
    assert str(error.value).startswith(line)
    assert not mounted.has_changed()


async def test_what_the_host_cannot_apply_is_named_once_and_given_again_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mounted_module, "POLL_SECONDS", 0.0)
    caplog.set_level(logging.DEBUG)
    mount(tmp_path, "1", mesh_json=DOCUMENT, cluster_key=OLD)
    mounted = MountedDirectory(tmp_path)
    problems: list[str] = []
    taken = asyncio.Event()

    async def take(content: Mounted) -> None:
        assert content.document.name == "m"
        problems.append(mounted.problem)
        if len(problems) < 4:
            raise InvalidSpec("interface", "is in use by another agent")
        taken.set()

    watch = asyncio.create_task(mounted.watch(take, on_change=lambda: None, on_nudge=pytest.fail))
    async with asyncio.timeout(60):
        await taken.wait()
        await asyncio.sleep(0)
    watch.cancel()
    assert problems == ["", *["interface: is in use by another agent"] * 3]
    assert mounted.problem == ""
    assert caplog.text.count("mounted files rejected") == 1
    assert caplog.messages.count("mounted files changed mesh=m") == 1
    assert not mounted.has_changed(), "it is given no more"


async def test_each_change_of_the_files_is_logged_with_the_mesh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mounted_module, "POLL_SECONDS", 0.0)
    caplog.set_level(logging.DEBUG)
    mount(tmp_path, "1", mesh_json=DOCUMENT, cluster_key=OLD)
    mounted = MountedDirectory(tmp_path)
    mounted.read()
    taken: asyncio.Queue[Mounted] = asyncio.Queue()
    watch = asyncio.create_task(mounted.watch(taken.put, on_change=lambda: None, on_nudge=lambda: None))
    async with asyncio.timeout(60):
        mount(tmp_path, "2", mesh_json=DOCUMENT, cluster_key=NEW, nudge="abc.1")
        await taken.get()
        mount(tmp_path, "3", mesh_json=DOCUMENT.replace('"m"', '"n"'), cluster_key=NEW, nudge="abc.1")
        await taken.get()
    watch.cancel()
    assert caplog.messages == ["mounted files changed mesh=m", "mounted files changed mesh=n"]
