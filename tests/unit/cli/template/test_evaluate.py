"""Go templates: what is written here was checked against docker's own, see tests/docker/test_cli_beside_docker.py."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cli.template.evaluate import Template
from wherry.cli.template.nodes import TemplateError
from wherry.cli.template.values import Record, Struct

DATA: dict[str, Any] = {
    "S": "web",
    "N": 3,
    "F": 1.5,
    "B": True,
    "Nil": None,
    "L": ["a", "b"],
    "M": {"y": "2", "x": "1"},
    "Deep": {"Er": {"Value": 7}},
    "Empty": [],
}


def render(text: str, value: Any = DATA) -> str:
    return Template(text).render(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{{.S}}", "web"),
        ("{{ .N }}/{{.F}}/{{.B}}/{{.Nil}}", "3/1.5/true/<nil>"),
        ("{{.L}} {{.M}} {{.Empty}}", "[a b] map[x:1 y:2] []"),
        ("{{.Deep.Er.Value}}", "7"),
        ("{{.Nope}}", "<no value>"),
        ("{{(.Deep).Er.Value}}", "7"),
        ("{{$.S}}", "web"),
        ("a {{- .S -}} b", "awebb"),
        ("a {{- /* note */ -}} b", "ab"),
        ("a{{/* note */}}b", "ab"),
        ("{{if .B}}yes{{else}}no{{end}}", "yes"),
        ("{{if .Empty}}yes{{else if .N}}number{{else}}no{{end}}", "number"),
        ("{{if not .Nil}}nil{{end}}", "nil"),
        ("{{with .Deep}}{{.Er.Value}}{{end}}", "7"),
        ("{{with .Empty}}x{{else}}none{{end}}", "none"),
        ("{{with $x := .S}}{{$x}}{{end}}", "web"),
        ("{{range .L}}<{{.}}>{{end}}", "<a><b>"),
        ("{{range $i, $v := .L}}{{$i}}={{$v}} {{end}}", "0=a 1=b "),
        ("{{range $k, $v := .M}}{{$k}}={{$v}} {{end}}", "x=1 y=2 "),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range .L}}{{.}}{{break}}{{end}}", "a"),
        ('{{range .L}}{{if eq . "a"}}{{continue}}{{end}}{{.}}{{end}}', "b"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{$x := 1}}{{$x = 2}}{{$x}}", "2"),
        ("{{$n := 0}}{{range .L}}{{$n = len $.L}}{{end}}{{$n}}", "2"),
        ('{{upper .S | printf "%-5s|"}}', "WEB  |"),
        ('{{lower "ABC"}} {{title "hello-big world"}}', "abc Hello-Big World"),
        ('{{split "a,b" ","}} {{join .L "+"}}', "[a b] a+b"),
        ("{{truncate .S 2}} {{pad .S 1 2}}|", "we  web  |"),
        ('{{len .S}} {{len .L}} {{index .L 1}} {{index .M "x"}}{{index .M "nope"}}', "3 2 b 1"),
        ("{{slice .S 1 2}} {{slice .L 1}}", "e [b]"),
        (
            '{{eq .N 3}} {{eq .N 1 2 3}} {{ne .S "x"}} {{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 1 2}}',
            "true true true true true false false",
        ),
        ("{{and .B .S}} {{or .Nil .S}} {{and .Empty .S}}", "web web []"),
        ("{{json .M}} {{json .Nil}} {{json .S}}", '{"x":"1","y":"2"} null "web"'),
        ("{{println .S}}|{{print .S .N}}|{{print 1 2}}", "web\n|web3|1 2"),
        (
            '{{printf "%d %5d|%-5d|%05d %x %q %t %v %.2f %% %s" 1 2 3 4 255 "a" true .L 1.234 .L}}',
            '1     2|3    |00004 ff "a" true [a b] 1.23 % [a b]',
        ),
        (
            '{{printf "%d" .S}} {{printf "%s"}} {{printf "x" 1}}',
            "%!d(string=web) %!s(MISSING) x%!(EXTRA int=1)",
        ),
        ('{{`raw "text"`}} {{"tab\\t\\u00e9"}} {{\'a\'}}', 'raw "text" tab\té 97'),
        ("{{0x10}} {{-3}} {{1.5e3}} {{017}}", "16 -3 1500 15"),
        ('{{html "<a>"}} {{urlquery "a b&c"}}', "&lt;a&gt; a+b%26c"),
        ('{{define "t"}}[{{.}}]{{end}}{{template "t" .S}}', "[web]"),
        ('{{block "b" .N}}({{.}}){{end}}', "(3)"),
        ("{{(index .L 0) | upper}}", "A"),
        ("{{true}} {{false}}", "true false"),
    ],
)
def test_renders(text: str, expected: str) -> None:
    assert render(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{.Foo", "template: :1: unclosed action"),
        ("{{foo}}", 'template: :1: function "foo" not defined'),
        ("\n{{foo}}", 'template: :2: function "foo" not defined'),
        ("{{$x}}", 'template: :1: undefined variable "$x"'),
        ("{{}}", "template: :1: missing value for command"),
        ("{{if .B}}", "template: :1: unexpected EOF"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("{{else}}", "template: :1: unexpected {{else}}"),
        ("{{break}}", "template: :1: {{break}} outside {{range}}"),
        ('{{"a}}', "template: :1: unterminated quoted string"),
        ("{{(.S}}", "template: :1: unclosed left paren"),
        ("{{.S)}}", "template: :1: unexpected right paren"),
        ("{{/* x}}", "template: :1: unclosed comment"),
        ("{{.S | 3}}", "template: :1: non executable command in pipeline stage 2"),
    ],
)
def test_parse_errors_are_gos(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{.Foo}}", 'template: :1:2: executing "" at <.Foo>: can\'t evaluate field Foo in type *row'),
        (
            "{{.ID}} {{.Foo}}",
            'template: :1:10: executing "" at <.Foo>: can\'t evaluate field Foo in type *row',
        ),
        ("a\nbc{{.Foo}}", 'template: :2:4: executing "" at <.Foo>: can\'t evaluate field Foo in type *row'),
        (
            "{{.ID.Foo}}",
            'template: :1:5: executing "" at <.ID.Foo>: can\'t evaluate field Foo in type string',
        ),
        (
            "{{index .ID 9}}",
            'template: :1:2: executing "" at <index .ID 9>: error calling index: index out of range: 9',
        ),
        (
            '{{lt 1 "a"}}',
            'template: :1:2: executing "" at <lt 1 "a">: error calling lt: incompatible types for comparison',
        ),
        (
            "{{.Label}}",
            'template: :1:2: executing "" at <.Label>: wrong number of args for Label: want 1 got 0',
        ),
    ],
)
def test_field_errors_are_gos(text: str, message: str) -> None:
    row = Record("*row", {"ID": lambda: "abc"}, {"Label": lambda name: name})  # pyright: ignore
    with pytest.raises(TemplateError) as caught:
        Template(text).render(row)
    assert str(caught.value) == message


def test_methods_take_arguments() -> None:
    row = Record("*row", {"ID": lambda: "abc"}, {"Label": lambda name: f"<{name}>"})  # pyright: ignore
    assert Template('{{.Label "a.b"}} {{"c" | .Label}}').render(row) == "<a.b> <c>"


def test_structs_print_without_names_and_fields_are_found_by_their_go_name() -> None:
    value = Struct({"Id": "x", "State": Struct({"Pid": 3, "Labels": {"a": "b"}, "Env": None})})
    assert Template("{{.ID}} {{.Id}} {{.State}}").render(value) == "x x {3 map[a:b] []}"


def test_what_was_printed_before_a_failure_is_kept() -> None:
    with pytest.raises(TemplateError) as caught:
        Template("a{{.S}}b{{.S.X}}").render(DATA)
    assert caught.value.partial == "awebb"


def test_a_template_that_calls_itself_ends() -> None:
    with pytest.raises(TemplateError, match="exceeded maximum template depth"):
        render('{{define "t"}}{{template "t"}}{{end}}{{template "t"}}')


def test_deep_nesting_is_refused() -> None:
    for text in ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "{{if 1}}" * 5000 + "{{end}}" * 5000):
        with pytest.raises(TemplateError, match="max expression depth"):
            Template(text)


actions = st.sampled_from(
    [
        "{{.S}}",
        "{{",
        "}}",
        "{{if .B}}",
        "{{else}}",
        "{{end}}",
        "{{range .L}}",
        "{{.",
        "|",
        "(",
        ")",
        '"',
        "`",
        "'",
        "$x",
        ":=",
        "{{- ",
        " -}}",
        "{{printf ",
        '"%d"',
        "1e",
        "{{/*",
        "*/",
        "{{with .M}}",
        "{{break}}",
        '{{define "t"}}',
        ",",
        "\\",
        "\n",
        ".L",
    ]
)


@given(st.lists(actions | st.text(max_size=3), max_size=12).map("".join))
def test_no_text_makes_anything_but_a_template_error(text: str) -> None:
    try:
        render(text)
    except TemplateError:
        pass


@given(st.text(alphabet=st.characters(exclude_characters="{}"), max_size=50))
def test_text_without_actions_is_itself(text: str) -> None:
    assert render(text) == text


@given(st.text(max_size=30))
def test_json_of_any_text_reads_back(text: str) -> None:
    import json

    assert json.loads(render("{{json .}}", text)) == text
