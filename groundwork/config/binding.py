"""A typed view of one subtree: validated before it counts, replaced whole, the last good one kept."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from groundwork.config.codec import Json
from groundwork.config.secrets import SecretsFolder
from groundwork.errors import InvalidConfig

M = TypeVar("M", bound=BaseModel)


class Bound(Generic[M]):
    """The model at `key` as it is now. `current` is one attribute read; the object it returns never changes.

    `error` says why a newer state was rejected, None while the newest is in force.
    """

    def __init__(self, key: str, model: type[M], secrets: SecretsFolder, value: Json) -> None:
        self.key = key
        self.error: InvalidConfig | None = None
        self.generation = 1
        self._model = model
        self._secrets = secrets
        self.current: M = self.validate(value)
        self._candidate: M = self.current

    def validate(self, value: Json) -> M:
        """The model of a value; an absent one is an empty object, so that defaults apply.

        Raises InvalidConfig that names the fields, never their values.
        """
        try:
            return self._model.model_validate({} if value is None else self._secrets.resolve(value))
        except ValidationError as error:
            problems = "; ".join(
                f"{'/'.join((self.key, *map(str, e['loc'])))}: {e['msg']}" for e in error.errors(include_input=False, include_context=False)
            )
        except InvalidConfig as error:
            problems = f"{self.key}: {error}"
        except Exception as error:  # a validator may raise anything; pydantic only catches ValueError and AssertionError
            problems = f"{self.key}: {type(error).__name__} in a validator of {self._model.__name__}"
        raise InvalidConfig(f"configuration {problems}. The generation before it stays in force")

    def accepts(self, value: Json) -> bool:
        """Whether the value can be used; it is then what `swap` puts in force."""
        try:
            self._candidate = self.validate(value)
        except InvalidConfig as error:
            self.error = error
            return False
        self.error = None
        return True

    def swap(self) -> None:
        """Put the accepted value in force."""
        if self._candidate != self.current:
            self.current = self._candidate
            self.generation += 1
