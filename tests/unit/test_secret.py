"""A secret is seen by whoever calls `reveal`, and by nobody else."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, NamedTuple, NewType, NotRequired, TypedDict, cast

import msgspec
import pydantic
import pytest
from cryptography.fernet import Fernet

from stepwell import InvalidInputError, Secret, SecretKeyError, SerializationError
from stepwell import _revealed as revealed
from stepwell._engine.failure import ErrorRegistry, error_summary, record_error
from stepwell._same import is_same
from stepwell.codec import NO_ANNOTATION, codec_for, preview
from stepwell.secret import LOST

CANARY = "canary-7f3a"
KEY = Fernet.generate_key().decode()
OTHER_KEY = Fernet.generate_key().decode()
VARIABLE = "STEPWELL_SECRET_KEY"
MASK = "**********"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


@pytest.fixture(autouse=True)
def _nothing_revealed() -> Iterator[None]:
    revealed._texts.clear()
    yield
    revealed._texts.clear()


@dataclass
class Token:
    key: str
    scopes: tuple[str, ...] = ()


@dataclass
class Login:
    user: str
    password: Secret[str]
    token: Secret[Token] | None = None
    codes: list[Secret[int]] = field(default_factory=list[Secret[int]])


class Model(pydantic.BaseModel):
    user: str
    password: Secret[str]
    pin: Secret[int] | None = None


class Record(msgspec.Struct):
    user: str
    password: Secret[str]


class Pair(NamedTuple):
    user: str
    password: Secret[str]


class Fields(TypedDict):
    user: str
    password: Secret[str]
    more: NotRequired[Secret[str]]


ApiKey = NewType("ApiKey", Secret[str])

# ----------------------------------------------------------------------------------------------------- the wrapper


def as_json(value: object) -> str:
    return json.dumps(value, default=str)


SHOW: list[Callable[[object], str]] = [repr, str, "{}".format, "{!r}".format, "{:>30}".format, as_json]


@pytest.mark.parametrize("show", SHOW)
@pytest.mark.parametrize(
    "value", [CANARY, CANARY.encode(), {"key": CANARY}, Token(CANARY)], ids=["str", "bytes", "dict", "object"]
)
def test_what_shows_a_secret_shows_a_mask(show: Callable[[object], str], value: object) -> None:
    shown = show(Secret(value))

    assert MASK in shown
    assert CANARY not in shown


def test_reveal_gives_the_value_itself() -> None:
    token = Token("a")

    assert Secret(token).reveal() is token


def test_secrets_are_equal_if_their_values_are() -> None:
    assert Secret("ä") == Secret("ä")
    assert Secret(b"a") == Secret(b"a")
    assert Secret(Token("a")) == Secret(Token("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != Secret(b"a")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


def test_what_comes_back_must_be_of_the_same_type_inside_of_a_secret_too() -> None:
    assert is_same(Secret([1]), Secret([1]))
    assert not is_same(Secret([1]), Secret([True]))
    assert not is_same(LOST, Secret(1))


def test_a_secret_reaches_other_processes_of_ours() -> None:
    secret = Secret(Token("a"))

    assert pickle.loads(pickle.dumps(secret)) == secret
    assert copy.copy(secret) == copy.deepcopy(secret) == secret


def test_a_secret_has_no_attributes_to_look_into() -> None:
    assert not hasattr(Secret("a"), "__dict__")
    assert CANARY not in str(asdict(Login("ann", Secret(CANARY))))


# --------------------------------------------------------------------------------------------------- as JSON text

HELD: list[tuple[object, object]] = [
    (NO_ANNOTATION, Secret(CANARY)),
    (NO_ANNOTATION, {"a": [Secret(CANARY), (Secret({CANARY: 1}), None)]}),
    (NO_ANNOTATION, {Secret(CANARY), Secret(b"x")}),
    (NO_ANNOTATION, {Secret(CANARY): 1}),
    (NO_ANNOTATION, Secret(Secret(CANARY))),
    (object, Secret((CANARY, {CANARY}))),
    (Secret, Secret(CANARY)),
    (Secret[str], Secret(CANARY)),
    (Secret[bytes], Secret(CANARY.encode())),
    (Secret[str] | None, Secret(CANARY)),
    (Secret[str] | None, None),
    (Secret[str] | int, Secret(CANARY)),
    (str | Secret[str], Secret(CANARY)),
    (list[Secret[str]], [Secret(CANARY)]),
    (dict[str, Secret[str]], {"a": Secret(CANARY)}),
    (tuple[Secret[str], ...], (Secret(CANARY),)),
    (tuple[int, Secret[str]], (1, Secret(CANARY))),
    (Annotated[Secret[str], "note"], Secret(CANARY)),
    (ApiKey, Secret(CANARY)),
    (Secret[Token], Secret(Token(CANARY, ("read",)))),
    (Secret[Token | None], Secret(Token(CANARY))),
    (Login, Login("ann", Secret(CANARY), Secret(Token(CANARY)), [Secret(1), Secret(2)])),
    (list[Login | None], [Login("ann", Secret(CANARY)), None]),
    (Model, Model(user="ann", password=Secret(CANARY), pin=Secret(1234))),
    (list[Model], [Model(user="ann", password=Secret(CANARY))]),
    (Record, Record("ann", Secret(CANARY))),
    (Pair, Pair("ann", Secret(CANARY))),
    (Fields, {"user": "ann", "password": Secret(CANARY)}),
    (dict[str, Any], {"a": Secret(CANARY), "b": 1}),
]


@pytest.mark.parametrize(("annotation", "value"), HELD)
def test_a_secret_comes_back_and_its_text_hides_it(annotation: object, value: object) -> None:
    codec = codec_for(annotation)

    text, live = codec.snapshot(value)

    again = codec.decode(text)
    assert CANARY not in text
    assert again == live == value
    assert type(again) is type(live) is type(value)


JSON: list[tuple[object, object, object]] = [
    (Secret[str], CANARY, Secret(CANARY)),
    (Secret[str] | None, CANARY, Secret(CANARY)),
    (Secret[str] | int, CANARY, Secret(CANARY)),
    (Secret, {"a": CANARY}, Secret({"a": CANARY})),
    (Secret[Token], {"key": CANARY, "scopes": ["a"]}, Secret(Token(CANARY, ("a",)))),
    (list[Secret[str]], [CANARY], [Secret(CANARY)]),
    (Login, {"user": "ann", "password": CANARY, "codes": [1]}, Login("ann", Secret(CANARY), None, [Secret(1)])),
    (Model, {"user": "ann", "password": CANARY}, Model(user="ann", password=Secret(CANARY))),
    (Record, {"user": "ann", "password": CANARY}, Record("ann", Secret(CANARY))),
    (Fields, {"user": "ann", "password": CANARY}, {"user": "ann", "password": Secret(CANARY)}),
    (Login | Token, {"user": "ann", "password": CANARY}, Login("ann", Secret(CANARY))),
]


@pytest.mark.parametrize(("annotation", "plain", "value"), JSON)
def test_input_in_plain_json_is_wrapped(annotation: object, plain: object, value: object) -> None:
    codec = codec_for(annotation)

    text = codec.validate(plain)

    assert CANARY not in text
    assert codec.decode(text) == value


@pytest.mark.parametrize(("annotation", "plain", "value"), JSON)
def test_plain_values_that_were_stored_before_the_annotation_said_secret_are_read(
    annotation: object, plain: object, value: object
) -> None:
    assert codec_for(annotation).decode(json.dumps(plain)) == value


UNWRAPPED: list[tuple[object, Any, object]] = [
    (Secret[str], CANARY, Secret(CANARY)),
    (list[Secret[str]], [CANARY, Secret("b")], [Secret(CANARY), Secret("b")]),
    (Login, Login("ann", CANARY), Login("ann", Secret(CANARY))),  # pyright: ignore[reportArgumentType]
    (Record, Record("ann", CANARY), Record("ann", Secret(CANARY))),  # pyright: ignore[reportArgumentType]
    (
        Model,
        Model.model_construct(user="ann", password=CANARY),
        Model(user="ann", password=Secret(CANARY)),
    ),
]


@pytest.mark.parametrize(("annotation", "value", "wrapped"), UNWRAPPED)
def test_what_a_body_forgot_to_wrap_is_wrapped(annotation: object, value: object, wrapped: object) -> None:
    text, live = codec_for(annotation).snapshot(value)

    assert CANARY not in text
    assert codec_for(annotation).decode(text) == live == wrapped


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Login, {"password": CANARY}),
        (Secret[int], Secret(CANARY)),
        (list[Secret[str]], CANARY),
        (Login | Token, {"x": CANARY}),
    ],
)
def test_what_does_not_fit_is_refused_and_not_shown(annotation: object, value: object) -> None:
    codec = codec_for(annotation)

    with pytest.raises(InvalidInputError) as refused:
        codec.validate(value)
    with pytest.raises(SerializationError) as unstorable:
        codec.snapshot(value)

    assert CANARY not in str(refused.value) + str(unstorable.value)


def test_what_cannot_be_stored_inside_a_secret_is_refused_and_not_shown() -> None:
    with pytest.raises(SerializationError) as refused:
        codec_for(NO_ANNOTATION).snapshot(Secret({CANARY: deque[int]()}))

    assert "The value of a Secret" in str(refused.value)
    assert CANARY not in str(refused.value)


def test_data_that_looks_like_a_stored_secret_stays_data() -> None:
    value = {"$type": "secret", "value": "gAAAA"}

    text, live = codec_for(NO_ANNOTATION).snapshot(value)

    assert codec_for(NO_ANNOTATION).decode(text) == live == value


PLAIN_AROUND: list[tuple[object, object]] = [
    (Login, Login("ann", Secret(CANARY), codes=[Secret(1)])),
    (list[Model], [Model(user="ann", password=Secret(CANARY))]),
    (Fields, {"user": "ann", "password": Secret(CANARY)}),
]


@pytest.mark.parametrize(("annotation", "value"), PLAIN_AROUND)
def test_around_a_secret_the_text_is_plain_json_that_anybody_reads(annotation: object, value: Any) -> None:
    text = codec_for(annotation).encode(value)

    untyped = cast("Any", codec_for(NO_ANNOTATION).decode(text))
    fields = cast("dict[str, Any]", untyped[0] if annotation == list[Model] else untyped)
    assert (fields["user"], fields["password"]) == ("ann", Secret(CANARY))


class Loose(TypedDict):
    password: Secret[str]
    more: Any


@pytest.mark.parametrize("more", [Secret(CANARY), {"$type": "secret", "value": "x"}, (1, 2), {"$type": 1}, '"$type"'])
def test_what_stands_beside_a_secret_is_not_taken_for_one(more: object) -> None:
    value: Loose = {"password": Secret(CANARY), "more": more}

    text, live = codec_for(Loose).snapshot(value)

    assert CANARY not in text
    assert codec_for(Loose).decode(text) == live == value


def test_input_that_looks_like_a_stored_secret_is_not_decrypted() -> None:
    """Whoever has seen an encrypted text must not get it decrypted by passing it as an input."""
    stolen = json.loads(codec_for(Secret[str]).encode(Secret(CANARY)))
    codec = codec_for(Secret[Any])

    accepted = cast("Secret[Any]", codec.decode(codec.validate(stolen)))

    assert accepted.reveal() == stolen
    for annotation in (Login, Model):
        with pytest.raises(InvalidInputError) as refused:
            codec_for(annotation).validate({"user": "ann", "password": stolen})
        assert CANARY not in str(refused.value)


def test_the_same_secret_has_another_text_each_time() -> None:
    assert codec_for(Secret[str]).encode(Secret("a")) != codec_for(Secret[str]).encode(Secret("a"))


def test_pydantic_shows_the_mask_and_checks_the_value() -> None:
    model = Model(user="ann", password=Secret(CANARY))

    assert json.loads(model.model_dump_json()) == {"user": "ann", "password": MASK, "pin": None}
    assert CANARY not in repr(model)
    assert Model.model_validate({"user": "ann", "password": "x"}).password.reveal() == "x"
    with pytest.raises(pydantic.ValidationError):
        Model(user="ann", password=Secret(1))  # pyright: ignore[reportArgumentType]


def test_a_preview_shows_masks() -> None:
    shown = preview(
        (Secret(CANARY), Login("ann", Secret(CANARY)), Model(user="a", password=Secret(CANARY))), {"x": Secret(CANARY)}
    )
    cut = preview((Secret(CANARY), {Secret(CANARY): Secret(CANARY)}, "x" * 5000))

    assert CANARY not in shown + cut
    assert json.loads(shown)["kwargs"] == {"x": MASK}
    assert json.loads(cut)[0] == MASK


# ------------------------------------------------------------------------------------------------------------ keys


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_without_a_key_no_secret_is_stored(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    stored = codec_for(NO_ANNOTATION).encode(Secret("a"))
    monkeypatch.setenv(VARIABLE, text)

    for call in (
        lambda: codec_for(NO_ANNOTATION).snapshot(Secret("a")),
        lambda: codec_for(Login).validate({"user": "ann", "password": "a"}),
        lambda: codec_for(NO_ANNOTATION).decode(stored),
    ):
        with pytest.raises(SecretKeyError, match="set STEPWELL_SECRET_KEY"):
            call()


def test_what_is_no_key_is_told_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{KEY},{CANARY}")

    with pytest.raises(SecretKeyError, match="Key 2 of 2 in STEPWELL_SECRET_KEY is none") as refused:
        codec_for(NO_ANNOTATION).snapshot(Secret("a"))

    assert CANARY not in str(refused.value)
    assert refused.value.__cause__ is None


def test_keys_are_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = codec_for(Secret[str])
    old = codec.encode(Secret("a"))

    monkeypatch.setenv(VARIABLE, f"{OTHER_KEY}, {KEY}")
    new = codec.encode(Secret("b"))

    assert codec.decode(old) == Secret("a")
    monkeypatch.setenv(VARIABLE, OTHER_KEY)
    assert codec.decode(new) == Secret("b")
    with pytest.raises(SecretKeyError, match="not the key in STEPWELL_SECRET_KEY"):
        codec.decode(old)


def test_a_changed_text_is_refused() -> None:
    codec = codec_for(Secret[str])
    raw = json.loads(codec.encode(Secret("a")))
    raw["value"] = raw["value"][:-6] + "AAAAA="

    with pytest.raises(SecretKeyError):
        codec.decode(json.dumps(raw))


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    monkeypatch.setenv(VARIABLE, Fernet.generate_key().decode())

    with pytest.raises(SecretKeyError, match=r"pip install 'stepwell\[crypto\]'"):
        codec_for(Secret[str]).encode(Secret("a"))


def test_the_package_is_asked_for_before_a_key_that_only_it_can_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)

    with pytest.raises(SecretKeyError, match=r"stepwell\[crypto\]"):
        codec_for(NO_ANNOTATION).snapshot(Secret("a"))


# ---------------------------------------------------------------------------------------------------------- errors


class RefusalError(Exception):
    def __init__(self, secret: object, note: str = "") -> None:
        super().__init__(secret, note)
        self.secret = secret


def test_an_error_record_keeps_no_secret_and_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)

    text = record_error(RefusalError([Secret(CANARY)]))

    error = ErrorRegistry([RefusalError]).restore(text)
    assert CANARY not in text
    assert isinstance(error, RefusalError)
    lost = cast("Any", error.secret)[0]
    assert str(error) == f"([Secret('{MASK}')], '')"
    with pytest.raises(SerializationError, match="Errors keep no secrets"):
        lost.reveal()
    assert pickle.loads(pickle.dumps(lost)) is lost


@pytest.mark.parametrize(
    "value", [CANARY, CANARY.encode(), Token(CANARY), {"key": [CANARY]}], ids=["str", "bytes", "object", "dict"]
)
def test_texts_that_were_revealed_are_masked_in_error_records(value: object) -> None:
    Secret(value).reveal()
    try:
        raise RefusalError(f"no access with {CANARY}", CANARY) from ValueError(CANARY)
    except RefusalError as raised:
        text = record_error(raised)

    error: Any = ErrorRegistry([RefusalError]).restore(text)
    assert CANARY not in text + "".join(error_summary(text))
    assert (type(error), error.secret) == (RefusalError, f"no access with {MASK}")


def test_texts_that_were_revealed_are_masked_in_our_logs(caplog: pytest.LogCaptureFixture) -> None:
    Secret(CANARY).reveal()
    log = logging.getLogger("stepwell.step")

    try:
        raise ValueError(CANARY)
    except ValueError:
        log.exception("no access with %s", CANARY)
    log.warning("%s of %d", "nothing", 2)

    assert CANARY not in caplog.text
    assert f"ValueError: {MASK}" in caplog.text
    assert "nothing of 2" in caplog.text


def test_short_texts_and_old_ones_are_not_looked_for() -> None:
    Secret("short").reveal()
    Secret("the-first").reveal()
    for number in range(revealed.KEPT):
        Secret(f"secret-{number:04}").reveal()

    text = record_error(ValueError("short the-first secret-0001"))

    assert error_summary(text)[1] == f"short the-first {MASK}"
