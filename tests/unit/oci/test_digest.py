from __future__ import annotations

import pytest

from wherry.errors import InvalidParameter
from wherry.oci.digest import DiffID, chain_ids, digest_of, parse_digest

A, B = DiffID("sha256:" + "a" * 64), DiffID("sha256:" + "b" * 64)


def test_a_chain_is_named_as_the_specification_says() -> None:
    first, second, third = chain_ids([A, B, A])
    assert first == A
    assert second == digest_of(f"{A} {B}".encode())
    assert third == digest_of(f"{second} {A}".encode())
    assert chain_ids([]) == []


@pytest.mark.parametrize(
    "text", ["", "sha256:", A[:-1], A + "a", A.upper(), "sha512:" + "a" * 128, A + "\n", "sha256:" + "/" * 64]
)
def test_only_sha256_in_lower_case_is_a_digest(text: str) -> None:
    assert parse_digest(A) == A
    with pytest.raises(InvalidParameter, match="invalid digest"):
        parse_digest(text)
