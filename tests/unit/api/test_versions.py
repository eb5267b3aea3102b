from __future__ import annotations

from typing import Any

import pytest

from wherry.api import versions
from wherry.errors import InvalidParameter


def test_versions_compare_as_numbers() -> None:
    assert versions.parse("1.24") < versions.parse("1.100")


@pytest.mark.parametrize("text", ["1", "1.", ".1", "1.2.3", "1..2", "99999.1", ""])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        versions.parse(text)


def test_the_refusals_are_dockers_byte_for_byte() -> None:
    with pytest.raises(InvalidParameter) as new:
        versions.check((1, 99), (1, 24))
    assert str(new.value) == "client version 1.99 is too new. Maximum supported API version is 1.51"
    with pytest.raises(InvalidParameter) as old:
        versions.check((1, 20), (1, 24))
    assert str(old.value) == (
        "client version 1.20 is too old. Minimum supported API version is 1.24, "
        "please upgrade your client to a newer version"
    )


def test_images_lose_what_a_version_did_not_know() -> None:
    image = {"Size": 3, "Containers": 2, "Descriptor": {}}
    versions.shape("image row", (1, 51), image)
    assert image == {"Size": 3, "Containers": 2, "Descriptor": {}}
    versions.shape("image row", (1, 43), image)
    assert image == {"Size": 3, "VirtualSize": 3, "Containers": -1}


def test_an_images_configuration_was_a_containers() -> None:
    image: dict[str, Any] = {"Config": {"Env": ["A=b"], "Tty": True}}
    versions.shape("image", (1, 50), image)
    assert image == {"Config": {"Env": ["A=b"], "Tty": True}}
    versions.shape("image", (1, 49), image)
    assert image["Config"]["Tty"] is True
    assert image["Config"]["AttachStdin"] is False
    assert image["Config"]["Hostname"] == ""


def test_an_image_shows_the_container_it_was_to_old_clients() -> None:
    image: dict[str, Any] = {"Config": {"Volumes": {"/data": {}}}}
    versions.shape("image", (1, 45), image)
    assert "ContainerConfig" not in image
    versions.shape("image", (1, 44), image)
    assert image["ContainerConfig"]["Volumes"] == {"/data": {}} and image["Container"] == ""


def test_shaping_survives_missing_parents() -> None:
    value: dict[str, object] = {"HostConfig": None}
    versions.shape("container", (1, 24), value)
    assert value == {"HostConfig": None}
