"""What a log may show."""

from __future__ import annotations

from wherry.model.masking import masked, masked_url


def test_secrets_and_variables_are_masked_at_any_depth() -> None:
    given = {
        "username": "u",
        "Password": "p1",
        "IdentityToken": "t1",
        "Env": ["A=v1", "B"],
        "Spec": [{"Data": "d1", "Name": "n", "JoinToken": "j1"}],
        "log-opts": {"splunk-token": "s1", "max-size": "1m"},
        "Remote": "https://user:pw@host/x",
    }
    assert masked(given) == {
        "username": "u",
        "Password": "*****",
        "IdentityToken": "*****",
        "Env": ["A=*****", "B"],
        "Spec": [{"Data": "*****", "Name": "n", "JoinToken": "*****"}],
        "log-opts": {"splunk-token": "*****", "max-size": "1m"},
        "Remote": "https://*****@host/x",
    }


def test_an_empty_secret_shows_that_it_is_empty() -> None:
    assert masked({"password": "", "token": None}) == {"password": "", "token": None}


def test_urls_lose_users_and_build_arguments() -> None:
    assert masked_url("/build?t=x&buildargs=%7B%22K%22%3A%22v%22%7D&q=1") == "/build?t=x&buildargs=*****&q=1"
    assert (
        masked_url("/images/create?fromSrc=http://me:pw@h/a.tar")
        == "/images/create?fromSrc=http://*****@h/a.tar"
    )
    assert masked_url("/containers/json?all=1") == "/containers/json?all=1"
