from __future__ import annotations

import json
import os
import threading
import time

import pytest

from wherry.errors import InvalidParameter, NotFound
from wherry.oci.digest import Digest, digest_of
from wherry.oci.image import OCI_MANIFEST, Descriptor
from wherry.store.blobs import Blobs

DATA = os.urandom(3_000_000)
DIGEST = digest_of(DATA)


@pytest.fixture
def blobs(tmp_path: os.PathLike[str]) -> Blobs:
    made = Blobs(os.path.join(tmp_path, "content"))
    made.recover()
    return made


def parts(blobs: Blobs) -> list[str]:
    return os.listdir(blobs._ingest)  # type: ignore[attr-defined]


def test_the_layout_is_one_other_tools_read(blobs: Blobs, tmp_path: os.PathLike[str]) -> None:
    digest = blobs.put(b"{}")
    blobs.write_index(
        [Descriptor(OCI_MANIFEST, digest, 2, annotations={"org.opencontainers.image.ref.name": "1"})]
    )
    root = os.path.join(tmp_path, "content")
    with open(os.path.join(root, "oci-layout")) as file:
        assert json.load(file) == {"imageLayoutVersion": "1.0.0"}
    with open(os.path.join(root, "index.json")) as file:
        assert json.load(file)["manifests"][0]["digest"] == digest
    assert blobs.path(digest) == os.path.join(root, "blobs", "sha256", digest[7:])


def test_a_blob_put_is_there(blobs: Blobs) -> None:
    digest = blobs.put(b"hello")
    assert blobs.put(b"hello") == digest
    assert blobs.has(digest)
    assert blobs.size(digest) == 5
    assert blobs.read(digest) == b"hello"
    with blobs.open(digest) as file:
        assert file.read() == b"hello"
    assert list(blobs.list()) == [(digest, 5)]
    with pytest.raises(InvalidParameter, match="at most 4"):
        blobs.read(digest, limit=4)
    blobs.remove(digest)
    blobs.remove(digest)
    assert not blobs.has(digest)
    for call in (blobs.size, blobs.open, blobs.read):
        with pytest.raises(NotFound):
            call(digest)


@pytest.mark.parametrize(
    "digest", ["sha256:../../etc/passwd", "sha512:" + "a" * 128, "x", "", "sha256:" + "A" * 64]
)
def test_a_digest_cannot_be_a_path(blobs: Blobs, digest: str) -> None:
    for call in (blobs.has, blobs.open, blobs.remove, blobs.path):
        with pytest.raises(InvalidParameter):
            call(Digest(digest))
    with pytest.raises(InvalidParameter):
        blobs.ingest(Digest(digest), 1)


def test_an_ingest_becomes_a_blob_when_it_is_whole(blobs: Blobs) -> None:
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        assert (ingest.offset, ingest.is_done, ingest.was_resumed) == (0, False, False)
        for at in range(0, len(DATA), 100_000):
            assert not blobs.has(DIGEST)
            ingest.write(DATA[at : at + 100_000])
        ingest.commit()
    assert blobs.read(DIGEST) == DATA
    assert parts(blobs) == []
    with blobs.ingest(DIGEST, len(DATA)) as again:
        assert again.is_done
        again.commit()


def test_an_ingest_that_was_cut_goes_on_where_it_was(blobs: Blobs) -> None:
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:1_234_567])
    assert parts(blobs) == [DIGEST[7:] + ".part"]
    blobs.recover()
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        assert (ingest.offset, ingest.was_resumed) == (1_234_567, True)
        ingest.write(memoryview(DATA)[1_234_567:])
        ingest.commit()
    assert blobs.read(DIGEST) == DATA


def test_an_ingest_can_begin_anew(blobs: Blobs) -> None:
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(b"wrong")
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        ingest.restart()
        assert ingest.offset == 0
        ingest.write(DATA)
        ingest.commit()
    assert blobs.read(DIGEST) == DATA


@pytest.mark.parametrize("data", [DATA, b"x" * len(DATA)], ids=["right", "damaged"])
def test_a_part_that_was_whole_already_is_used_or_begun_anew(blobs: Blobs, data: bytes) -> None:
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(data)  # and killed before the commit
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        assert (ingest.is_done, ingest.offset) == ((True, len(DATA)) if data == DATA else (False, 0))
        if not ingest.is_done:
            ingest.write(DATA)
        ingest.commit()
    assert blobs.read(DIGEST) == DATA
    assert parts(blobs) == []


def test_wrong_bytes_are_refused_and_thrown_away(blobs: Blobs) -> None:
    for data, size in ((b"x" * 5, 5), (b"x" * 5, None)):
        with blobs.ingest(DIGEST, size) as ingest:
            ingest.write(data)
            with pytest.raises(InvalidParameter, match=f"expected {DIGEST}"):
                ingest.commit()
        assert not blobs.has(DIGEST)
        assert parts(blobs) == []


def test_too_many_bytes_are_refused_at_once(blobs: Blobs) -> None:
    with blobs.ingest(DIGEST, 5) as ingest:
        ingest.write(b"12345")
        with pytest.raises(InvalidParameter, match="longer than the 5 bytes"):
            ingest.write(b"6")
    assert parts(blobs) == []


def test_too_few_bytes_are_refused_and_kept_for_later(blobs: Blobs) -> None:
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[:-1])
        with pytest.raises(InvalidParameter, match="does not match"):
            ingest.commit()
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(DATA[-1:])
        ingest.commit()


def test_a_part_longer_than_the_blob_begins_anew(blobs: Blobs) -> None:
    with blobs.ingest(DIGEST, None) as ingest:
        ingest.write(DATA + b"more")
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        assert ingest.offset == 0


@pytest.mark.parametrize("size", [-1, 1 << 50])
def test_absurd_sizes_are_refused(blobs: Blobs, size: int) -> None:
    with pytest.raises(InvalidParameter):
        blobs.ingest(DIGEST, size)
    blobs.ingest(DIGEST, 1).abort()  # nobody holds it


def test_an_abort_may_throw_away(blobs: Blobs) -> None:
    ingest = blobs.ingest(DIGEST, len(DATA))
    ingest.write(b"x")
    ingest.abort(keep=False)
    ingest.abort()
    assert parts(blobs) == []


def test_ingests_of_one_digest_take_turns(blobs: Blobs) -> None:
    first = blobs.ingest(DIGEST, len(DATA))
    order: list[str] = []

    def second() -> None:
        with blobs.ingest(DIGEST, len(DATA)) as ingest:
            order.append("second began")
            assert ingest.is_done

    thread = threading.Thread(target=second)
    thread.start()
    with blobs.ingest(digest_of(b"other"), 5) as other:  # another digest does not wait
        other.write(b"other")
        other.commit()
    first.write(DATA)
    order.append("first commits")
    first.commit()
    thread.join(10)
    assert order == ["first commits", "second began"]
    assert blobs._busy == {}  # type: ignore[attr-defined]


def test_old_parts_are_swept_but_not_those_in_use(blobs: Blobs) -> None:
    with blobs.ingest(DIGEST, len(DATA)) as ingest:
        ingest.write(b"12345")
    in_use = blobs.ingest(digest_of(b"x"), 1)
    assert blobs.remove_parts(3600) == 0
    path = os.path.join(blobs._ingest, DIGEST[7:] + ".part")  # type: ignore[attr-defined]
    os.utime(path, (time.time() - 7200,) * 2)
    assert blobs.remove_parts(3600) == 5
    assert parts(blobs) == [in_use.digest[7:] + ".part"]
    in_use.abort()


def test_recovery_removes_what_has_no_digest_for_a_name(blobs: Blobs) -> None:
    with open(os.path.join(blobs._ingest, "tmp-1234"), "w"):  # type: ignore[attr-defined]
        pass
    blobs.recover()
    assert parts(blobs) == []
