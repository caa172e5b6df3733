"""Video representations without labels, by dense trajectory clustering.

`vcjax.load` gives a trained network. The modules, in the order of the paper: `data`, `idt` (and the
package `fisher` beside this one), `models`, `objectives`, `clustering`, `training`, `evaluation`;
`pipeline` is what a run does with them, `settings` its values, `runtime` the machinery below; then
`pretrained`, `embed` and `interop` for what was learned.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vcjax.pretrained import Pretrained


def load(source: str) -> "Pretrained":
    """The network of an exported folder, a training stage's folder, or a hub id `owner/name`.

    RUN/STAGE/best is the stage's at its best validation. The hub needs the extra `hub`. Raises
    FileNotFoundError where there is none, ValueError for files of another kind.
    """
    from vcjax import pretrained

    return pretrained.load(source)
