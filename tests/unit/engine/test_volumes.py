"""`volume ls --filter`, and volumes in the API's words."""

from __future__ import annotations

import pytest

from wherry.engine.volumes import resource, volume_filter
from wherry.errors import InvalidParameter
from wherry.model.wire import encode
from wherry.volumes.volumes import Volume

VOLUMES = [
    Volume(name="data", driver="local", labels={"team": "shop", "k": "1"}),
    Volume(name="data2", driver="local"),
    Volume(name="far", driver="nas", labels={"k": "2"}),
]


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, "data data2 far"),
        ({"name": ["data"]}, "data data2"),
        ({"name": ["^data$", "^f"]}, "data far"),
        ({"driver": ["nas"]}, "far"),
        ({"driver": ["nas", "local"]}, "data data2 far"),
        ({"label": ["k"]}, "data far"),
        ({"label": ["k", "team=shop"]}, "data"),
        ({"label": ["k=3"]}, ""),
        ({"dangling": ["true"]}, "data2 far"),
        ({"dangling": ["0"]}, "data"),
        ({"dangling": ["1"], "driver": ["local"]}, "data2"),
    ],
)
def test_filters(filters: dict[str, list[str]], names: str) -> None:
    matches = volume_filter(filters, is_used=lambda name: name == "data")
    assert " ".join(volume.name for volume in VOLUMES if matches(volume)) == names


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"foo": ["bar"]}, "invalid filter 'foo'"),
        ({"dangling": ["perhaps"]}, "invalid filter 'dangling=.perhaps.'"),
        ({"dangling": ["true", "false"]}, "invalid filter 'dangling=.true false.'"),
        ({"name": ["("]}, "invalid filter 'name'"),
        ({"name": ["(a*)*b"]}, "a repeated group is not supported"),
    ],
)
def test_filters_refused(filters: dict[str, list[str]], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        volume_filter(filters, is_used=lambda name: False)


def test_what_was_not_given_is_null() -> None:
    made = Volume(name="v", driver="local", created_ns=1_767_323_045_999_999_999, mountpoint="/m")
    assert encode(resource(made)) == (
        b'{"CreatedAt":"2026-01-02T03:04:05Z","Driver":"local","Labels":null,"Mountpoint":"/m","Name":"v","Options":null,"Scope":"local"}'
    )
    far = Volume(
        name="v", driver="nas", labels={}, options={"a": "b"}, scope="global", status={"Health": "good"}
    )
    assert encode(resource(far)) == (
        b'{"Driver":"nas","Labels":{},"Mountpoint":"","Name":"v","Options":{"a":"b"},"Scope":"global","Status":{"Health":"good"}}'
    )
