"""A stand-in for the plugin `random` 4.21.4: passwords, strings, bytes, UUIDs and ids."""

from __future__ import annotations

import ctypes
import secrets
import string
import threading
import uuid
from base64 import b64encode, urlsafe_b64encode

from typing_extensions import override

from sandbox.plugins.protocol import Invalid, Properties, Provider, Resource, flag, known, number, serve, text
from sandbox.recipes import RANDOM_PLUGIN

SPECIAL = "!@#$%&*()-_=+[]{}<>:?"
BCRYPT_COST = 10
_CLASSES = (("upper", string.ascii_uppercase), ("lower", string.ascii_lowercase), ("numeric", string.digits), ("special", SPECIAL))
_bcrypt_lock = threading.Lock()  # crypt(3) answers from static memory


class RandomString(Resource):
    """`random:index/randomString:RandomString`."""

    type = "random:index/randomString:RandomString"
    computed: tuple[str, ...] = ("result",)

    @override
    def defaults(self) -> Properties:
        """What the official plugin fills in."""
        minimums: Properties = {f"min{name.capitalize()}": 0.0 for name, _ in _CLASSES}
        return {**{name: True for name, _ in _CLASSES}, "number": True, **minimums}

    @override
    def check(self, inputs: Properties) -> None:
        """Refuses a length that cannot hold what is asked for."""
        if not known(inputs, "length"):
            return
        length = number(inputs, "length")
        if length < 1:
            raise Invalid("length", f"must be at least 1, is {length}")
        if known(inputs, *(f"min{name.capitalize()}" for name, _ in _CLASSES)):
            minimum = sum(_minimum(inputs, name) for name, _ in _CLASSES)
            if minimum > length:
                raise Invalid("length", f"is {length}, less than the {minimum} characters that the minimums ask for")
        if known(inputs, *(name for name, _ in _CLASSES), "number") and not _alphabets(inputs):
            raise Invalid("special", "every class of characters is switched off: switch one on")

    @override
    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """The string is its own id."""
        result = generate(inputs)
        return result, {"result": result}


class RandomPassword(RandomString):
    """`random:index/randomPassword:RandomPassword`: a RandomString that is secret and has a bcrypt hash."""

    type = "random:index/randomPassword:RandomPassword"
    computed = ("result", "bcryptHash")
    secret = frozenset({"result", "bcryptHash"})

    @override
    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """The id says nothing about the password."""
        result = generate(inputs)
        return "none", {"result": result, "bcryptHash": bcrypt(result)}


class RandomBytes(Resource):
    """`random:index/randomBytes:RandomBytes`."""

    type = "random:index/randomBytes:RandomBytes"
    computed = ("base64", "hex")
    secret = frozenset({"base64", "hex"})

    @override
    def check(self, inputs: Properties) -> None:
        """At least one byte."""
        if known(inputs, "length") and number(inputs, "length") < 1:
            raise Invalid("length", f"must be at least 1, is {number(inputs, 'length')}")

    @override
    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """The id says nothing about the bytes."""
        content = secrets.token_bytes(number(inputs, "length"))
        return "none", {"base64": b64encode(content).decode(), "hex": content.hex()}


class RandomUuid(Resource):
    """`random:index/randomUuid:RandomUuid`."""

    type = "random:index/randomUuid:RandomUuid"
    computed = ("result",)

    @override
    def check(self, inputs: Properties) -> None:
        """Everything is fine."""

    @override
    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """The UUID is its own id."""
        result = str(uuid.uuid4())
        return result, {"result": result}


class RandomId(Resource):
    """`random:index/randomId:RandomId`."""

    type = "random:index/randomId:RandomId"
    computed = ("b64Std", "b64Url", "dec", "hex")

    @override
    def check(self, inputs: Properties) -> None:
        """At least one byte."""
        if known(inputs, "byteLength") and number(inputs, "byteLength") < 1:
            raise Invalid("byteLength", f"must be at least 1, is {number(inputs, 'byteLength')}")

    @override
    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """All spellings of the same bytes, each with the prefix; the id is without it."""
        content = secrets.token_bytes(number(inputs, "byteLength"))
        prefix = text(inputs, "prefix")
        url = urlsafe_b64encode(content).decode().rstrip("=")
        return url, {
            "b64Std": prefix + b64encode(content).decode(),
            "b64Url": prefix + url,
            "dec": prefix + str(int.from_bytes(content, "big")),
            "hex": prefix + content.hex(),
        }


def generate(inputs: Properties) -> str:
    """Random characters: the asked-for minimum of each class, the rest from all of them, in random order."""
    alphabets = _alphabets(inputs)
    chosen = [secrets.choice(letters) for name, letters in alphabets.items() for _ in range(_minimum(inputs, name))]
    everything = "".join(alphabets.values())
    chosen += [secrets.choice(everything) for _ in range(number(inputs, "length") - len(chosen))]
    secrets.SystemRandom().shuffle(chosen)
    return "".join(chosen)


def bcrypt(password: str, like: str | None = None) -> str:
    """The bcrypt hash of `password`, by the system's crypt(3); with the salt of the hash `like`, where it is given.

    Raises ValueError where the system has none.
    """
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    alphabet = "./" + string.ascii_uppercase + string.ascii_lowercase + string.digits
    # 22 characters stand for 128 bits: the last one may only carry two of its six.
    salt = "".join(secrets.choice(alphabet) for _ in range(21)) + secrets.choice(".Oeu")
    with _bcrypt_lock:
        made: bytes | None = library.crypt(password.encode(), (like or f"$2b${BCRYPT_COST}${salt}").encode())
    if made is None or not made.startswith(b"$2b$"):
        raise ValueError("this system's crypt(3) has no bcrypt")
    return made.decode()


def _alphabets(inputs: Properties) -> dict[str, str]:
    """The classes that are switched on. `number` is the old name of `numeric`."""
    override = text(inputs, "overrideSpecial")
    letters = dict(_CLASSES) | ({"special": override} if override else {})
    on = {name: flag(inputs, name, default=flag(inputs, "number", default=True) if name == "numeric" else True) for name in letters}
    return {name: letters[name] for name in letters if on[name]}


def _minimum(inputs: Properties, name: str) -> int:
    return number(inputs, f"min{name.capitalize()}") if name in _alphabets(inputs) else 0


def provider() -> Provider:
    """The stand-in."""
    return Provider("random", RANDOM_PLUGIN, (RandomPassword(), RandomString(), RandomBytes(), RandomUuid(), RandomId()))


if __name__ == "__main__":
    serve(provider())
