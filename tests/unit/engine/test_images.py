"""Listing, naming and removing images, with dockerd's rules and texts."""

from __future__ import annotations

import pytest

from tests.fakes.registry import FakeRegistry, tar_of
from tests.unit.engine.image_fixtures import Bench, docker_archive, image_id_of
from wherry.engine.images import ImageUser
from wherry.errors import Conflict, InvalidParameter, NotFound
from wherry.model import wire

ONE = docker_archive("one:1", layers=[tar_of({"a": b"1"}), tar_of({"b": b"2"})])
ONE_ID = image_id_of(ONE)
SHORT = ONE_ID[7:19]
OLDER = docker_archive("older:1", created="2020-01-01T00:00:00Z", config={"Labels": {"k": "v"}})
STOPPED = ImageUser("75f3c86793d8aaaaaaaa", is_running=False)
RUNNING = ImageUser("75f3c86793d8aaaaaaaa", is_running=True)


def lines(deletes: list) -> list[str]:  # type: ignore[type-arg]
    return [wire.encode(one).decode() for one in deletes]


async def test_list_is_newest_first_and_never_null(bench: Bench) -> None:
    await bench.load(OLDER)
    await bench.load(ONE)
    rows = await bench.images.list()
    assert [row.repo_tags for row in rows] == [["one:1"], ["older:1"]]
    assert rows[0].repo_digests == []
    assert rows[0].labels == {"made": "by test"}
    assert rows[0].size == 2
    assert rows[0].containers == 0


async def test_filters(bench: Bench) -> None:
    await bench.load(OLDER)
    await bench.load(ONE)
    await bench.load(docker_archive(layers=[tar_of({"c": b"3"})]))

    async def found(**filters: str) -> list[list[str]]:
        given = {key: [value] for key, value in filters.items()}
        return [row.repo_tags for row in await bench.images.list(filters=given)]

    assert await found(reference="one") == [["one:1"]]
    assert await found(reference="o*:1") == [["one:1"], ["older:1"]]
    assert await found(reference="docker.io/one") == []
    assert await found(label="k=v") == [["older:1"]]
    assert await found(label="k=w") == []
    assert await found(dangling="true") == [[]]
    assert len(await found(dangling="false")) == 2
    assert await found(before="one:1") == [["older:1"]]
    assert len(await found(since="older:1")) == 2
    assert await found(until="2022-01-01") == [["older:1"]]


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"x": ["y"]}, "invalid filter 'x'"),
        ({"dangling": ["y"]}, r"invalid filter 'dangling=\[y\]'"),
        ({"dangling": ["true", "false"]}, r"invalid filter 'dangling=\[true false\]'"),
        ({"reference": ["["]}, "syntax error in pattern"),
        ({"until": ["nope"]}, "failed to parse value as time or duration"),
    ],
)
async def test_bad_filters_are_refused(bench: Bench, filters: dict[str, list[str]], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        await bench.images.list(filters=filters)


async def test_filter_by_missing_image(bench: Bench) -> None:
    with pytest.raises(NotFound, match=r"No such image: nope:latest"):
        await bench.images.list(filters={"before": ["nope"]})


async def test_inspect_has_what_clients_read(bench: Bench) -> None:
    await bench.load(ONE)
    found = await bench.images.inspect("one:1")
    assert found.id == ONE_ID
    assert found.repo_tags == ["one:1"]
    assert found.config.cmd == ["/x"]
    assert found.root_fs.layers is not None and len(found.root_fs.layers) == 2
    assert found.created == "2024-01-02T03:04:05Z"
    for name in (SHORT, ONE_ID, ONE_ID[7:], "docker.io/library/one:1"):
        assert (await bench.images.inspect(name)).id == ONE_ID
    keys = list(wire.decode(wire.encode(found), dict))
    assert keys[:5] == ["Id", "RepoTags", "RepoDigests", "Parent", "Comment"]


async def test_history_is_newest_first(bench: Bench) -> None:
    await bench.load(ONE)
    items = await bench.images.history("one:1")
    assert [(item.id, item.created_by, item.tags) for item in items] == [
        (ONE_ID, "step 1", ["one:1"]),
        ("<missing>", "step 0", None),
    ]


async def test_resolve_gives_what_a_container_needs(bench: Bench) -> None:
    await bench.load(ONE)
    image = await bench.images.resolve("one:1")
    assert (image.id, len(image.chain_ids)) == (ONE_ID, 2)
    assert image.config.config is not None and image.config.config.cmd == ["/x"]
    with pytest.raises(NotFound, match=r"^No such image: nope:latest$"):
        await bench.images.resolve("nope")
    with pytest.raises(NotFound, match=r"was found but its platform \(linux/amd64\) does not match"):
        await bench.images.resolve("one:1", platform="linux/s390x")


async def test_held_image_keeps_its_layers_though_it_is_removed(bench: Bench) -> None:
    await bench.load(ONE)
    driver = bench.store.driver
    async with bench.images.held("one:1") as image:
        await bench.images.remove("one:1", force=True)
        assert await bench.images.list() == []
        driver.prepare("container", image.chain_ids)
    await bench.store.collect()
    assert set(driver.layers()) == set(image.chain_ids)
    driver.remove("container")
    assert await bench.is_empty()
    with pytest.raises(NotFound):
        async with bench.images.held("one:1"):
            pass


async def test_tag_moves_between_images(bench: Bench) -> None:
    await bench.load(ONE)
    await bench.load(OLDER)
    await bench.images.tag("older:1", "one", "1")
    assert await bench.names() == [[], ["older:1", "one:1"]]
    assert bench.events[-1] == ("tag", (await bench.images.resolve("older:1")).id, "one:1")


@pytest.mark.parametrize(
    ("repo", "tag", "text"),
    [
        ("UPPER", "x", "must be lowercase"),
        ("a", "b/c", "invalid tag format"),
        ("", "a", "invalid reference format"),
        ("a@sha256:" + "0" * 64, "", "refusing to create a tag with a digest reference"),
        ("a" * 64, "", "cannot specify 64-byte hexadecimal strings"),
    ],
)
async def test_bad_names_are_refused(bench: Bench, repo: str, tag: str, text: str) -> None:
    await bench.load(ONE)
    with pytest.raises(InvalidParameter, match=text):
        await bench.images.tag("one:1", repo, tag)


async def test_last_name_takes_the_image_with_it(bench: Bench) -> None:
    await bench.load(ONE)
    await bench.images.tag("one:1", "two", "")
    assert lines(await bench.images.remove("two")) == ['{"Untagged":"two:latest"}']
    deleted = lines(await bench.images.remove("one:1"))
    assert deleted[:2] == ['{"Untagged":"one:1"}', f'{{"Deleted":"{ONE_ID}"}}']
    assert len(deleted) == 4  # two layers
    assert [event[0] for event in bench.events[-3:]] == ["untag", "untag", "delete"]
    assert await bench.is_empty()


async def test_removal_by_id(bench: Bench) -> None:
    await bench.load(ONE)
    assert lines(await bench.images.remove(SHORT))[0] == '{"Untagged":"one:1"}'
    assert await bench.is_empty()


async def test_removal_by_id_with_several_names_must_be_forced(bench: Bench) -> None:
    await bench.load(ONE)
    await bench.images.tag("one:1", "two", "")
    with pytest.raises(Conflict) as caught:
        await bench.images.remove(SHORT)
    assert str(caught.value) == (
        f"conflict: unable to delete {SHORT} (must be forced) - image is referenced in multiple repositories"
    )
    assert len(lines(await bench.images.remove(SHORT, force=True))) == 5


@pytest.mark.parametrize("user", [STOPPED, RUNNING])
async def test_name_of_an_image_in_use_must_be_forced(bench: Bench, user: ImageUser) -> None:
    await bench.load(ONE)
    bench.users[ONE_ID] = [user]
    with pytest.raises(Conflict) as caught:
        await bench.images.remove("one:1")
    assert str(caught.value) == (
        'conflict: unable to remove repository reference "one:1" (must force) - container 75f3c86793d8 '
        f"is using its referenced image {SHORT}"
    )


async def test_second_name_of_an_image_in_use_may_go(bench: Bench) -> None:
    await bench.load(ONE)
    await bench.images.tag("one:1", "two", "")
    bench.users[ONE_ID] = [STOPPED]
    assert lines(await bench.images.remove("two")) == ['{"Untagged":"two:latest"}']


async def test_forced_removal_keeps_what_runs(bench: Bench) -> None:
    await bench.load(ONE)
    bench.users[ONE_ID] = [RUNNING]
    assert lines(await bench.images.remove("one:1", force=True)) == ['{"Untagged":"one:1"}']
    with pytest.raises(
        Conflict, match=r"\(cannot be forced\) - image is being used by running container 75f3"
    ):
        await bench.images.remove(SHORT, force=True)


async def test_removal_by_id_with_stopped_container_must_be_forced(bench: Bench) -> None:
    await bench.load(ONE)
    bench.users[ONE_ID] = [STOPPED]
    with pytest.raises(Conflict, match=r"\(must be forced\) - image is being used by stopped container 75f3"):
        await bench.images.remove(SHORT)
    assert len(lines(await bench.images.remove(SHORT, force=True))) >= 2


async def test_removing_nothing(bench: Bench) -> None:
    with pytest.raises(NotFound, match=r"^No such image: nope:latest$"):
        await bench.images.remove("nope")
    with pytest.raises(InvalidParameter, match=r"must be lowercase"):
        await bench.images.remove("NOPE:3")


async def test_digests_go_with_the_last_tag(bench: Bench) -> None:
    async with FakeRegistry() as registry:
        digest = registry.add_image("x", "1", layers=[tar_of({"f": b"1"})])
        await bench.pull(f"{registry.address}/x", "1")
        assert lines(await bench.images.remove(f"{registry.address}/x:1"))[:2] == [
            f'{{"Untagged":"{registry.address}/x:1"}}',
            f'{{"Untagged":"{registry.address}/x@{digest}"}}',
        ]
        assert await bench.is_empty()


async def test_prune_takes_only_the_nameless(bench: Bench) -> None:
    await bench.load(ONE)
    await bench.load(docker_archive(layers=[tar_of({"c": b"333"})]))
    pruned = await bench.images.prune()
    assert pruned.space_reclaimed == 3
    assert pruned.images_deleted is not None
    assert await bench.names() == [["one:1"]]
    assert bench.events[-1] == ("prune", "", "")
    assert (await bench.images.prune()).images_deleted is None


async def test_prune_all_spares_what_is_used(bench: Bench) -> None:
    await bench.load(ONE)
    await bench.load(OLDER)
    bench.users[ONE_ID] = [STOPPED]
    await bench.images.prune({"dangling": ["false"]})
    assert await bench.names() == [["one:1"]]


async def test_prune_by_label(bench: Bench) -> None:
    await bench.load(ONE)
    await bench.load(OLDER)
    await bench.images.prune({"dangling": ["false"], "label!": ["made"]})
    assert await bench.names() == [["one:1"]]


async def test_shared_size(bench: Bench) -> None:
    shared = tar_of({"a": b"12345"})
    await bench.load(docker_archive("a:1", layers=[shared, tar_of({"b": b"1"})]))
    await bench.load(docker_archive("b:1", layers=[shared]))
    assert [row.shared_size for row in await bench.images.list(shared_size=True)] == [5, 5]
