"""Optional dependencies: the command that installs them in place of the error of an import."""

import contextlib
from collections.abc import Iterator

# Extra -> its top-level modules, those that the base installation lacks.
EXTRAS = {"train": ("flax", "grain", "optax", "orbax", "safetensors", "tensorboardX")}


class MissingExtraError(ImportError, ValueError):
    """A library of an extra is not installed; the message has the command that installs it.

    It is also a ValueError, which commands print in one line.
    """


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Replace the error of importing a library of an extra by `MissingExtraError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        for extra, modules in EXTRAS.items():
            if library in modules:
                raise MissingExtraError(
                    f"{library} is not installed; training and networks need it: "
                    f"pip install 'vcjax[{extra}]'",
                    name=library,
                ) from error
        raise
