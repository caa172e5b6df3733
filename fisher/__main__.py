"""Fisher vectors from the command line.

python -m fisher fit INPUT... --out MODEL.npz
python -m fisher encode MODEL.npz INPUT... --out VECTORS.npz
python -m fisher inspect FILE...

An INPUT is a .npy or .npz file of rows [n, d], one array per item (such as a video), a file of
another format with an installed reader (such as trajectories from `vcjax idt extract`), or a
folder of such files.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from absl import logging
from tqdm import tqdm

import fisher
from fisher import files
from fisher.rows import Columns


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run its subcommand; exit with a one-line message on an error."""
    options = _parser().parse_args(arguments)
    logging.set_verbosity(logging.INFO)
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        sys.exit(f"fisher: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fisher",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fit = commands.add_parser("fit", help="fit PCA, mixture and sketch to a sample of the rows")
    fit.add_argument("inputs", nargs="+", type=Path, metavar="INPUT")
    fit.add_argument("--out", type=Path, required=True, help="output file of the model, .npz")
    fit.add_argument(
        "--explained_variance",
        type=float,
        default=0.9,
        help="fraction of the variance that the PCA keeps (default: %(default)s)",
    )
    fit.add_argument(
        "--num_components",
        type=int,
        default=256,
        help="components of the mixture (default: %(default)s)",
    )
    fit.add_argument(
        "--sketch_dim",
        type=int,
        default=2000,
        help="length of a sketched vector; 0: no sketch (default: %(default)s)",
    )
    fit.add_argument(
        "--num_items",
        type=int,
        default=3500,
        help="items drawn at random for the fit (default: %(default)s)",
    )
    fit.add_argument(
        "--rows_per_item",
        type=int,
        default=500,
        help="rows drawn at random from each item (default: %(default)s)",
    )
    fit.add_argument("--columns", nargs="+", default=[], metavar="COLUMNS", help=_COLUMNS_HELP)
    fit.add_argument(
        "--square_root", action="store_true", help="take signed square roots before the PCA"
    )
    fit.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    fit.set_defaults(run=_fit)
    encode = commands.add_parser("encode", help="compute a Fisher vector for each item")
    encode.add_argument("model", type=Path, metavar="MODEL", help="file written by fit")
    encode.add_argument("inputs", nargs="+", type=Path, metavar="INPUT")
    encode.add_argument("--out", type=Path, required=True, help="output file of the vectors, .npz")
    encode.add_argument(
        "--variant",
        default="paper",
        help="paper (Eq. 5-6; default) or released (the authors' code)",
    )
    encode.set_defaults(run=_encode)
    inspect = commands.add_parser("inspect", help="summarize files of models or vectors")
    inspect.add_argument("paths", nargs="+", type=Path, metavar="FILE")
    inspect.set_defaults(run=_inspect)
    return parser


_COLUMNS_HELP = """parts of a row, each with a PCA and mixture, whose vectors are concatenated:
BEGIN:END, or a name from an installed reader (of trajectories: all, trajectory, hog, hof, mbh).
Default: one part of all columns"""


def _fit(options: argparse.Namespace) -> None:
    sources = files.find(options.inputs)
    names = fisher.sample_items(sorted(sources), options.num_items, options.seed)
    rows = fisher.sample(
        _bar(names, "sample"),
        lambda name: files.read(sources[name]),
        rows_per_item=options.rows_per_item,
        seed=options.seed,
    )
    settings = {k: v for k, v in vars(options).items() if k not in ("run", "command", "out")}
    model = fisher.Model.fit(
        rows,
        explained_variance=options.explained_variance,
        num_components=options.num_components,
        sketch_dim=options.sketch_dim,
        seed=options.seed,
        columns={text: _columns(text, options.square_root) for text in options.columns}
        or {"all": Columns(square_root=options.square_root)},
        source={
            "settings": settings | {"inputs": [str(path) for path in options.inputs]},
            "num_items": len(sources),
            "rows_sha256": hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest(),
        },
    )
    model.save(options.out)
    _describe_model(model)


def _columns(text: str, square_root: bool) -> Columns:
    begin, colon, end = text.partition(":")
    if not colon:
        named = files.named_columns()
        if text not in named:
            raise ValueError(
                f"--columns: {text!r} is neither BEGIN:END nor a name from an installed reader "
                f"({', '.join(sorted(named)) or 'no reader is installed'})"
            )
        return named[text]._replace(square_root=square_root)
    try:
        return Columns(int(begin or 0), int(end) if end else None, square_root)
    except ValueError as error:
        raise ValueError(f"--columns: {text!r} is not BEGIN:END") from error


def _encode(options: argparse.Namespace) -> None:
    model = fisher.Model.load(options.model)
    sources = files.find(options.inputs)
    rows = ((name, files.read(sources[name])) for name in _bar(sorted(sources), "encode"))
    vectors = fisher.FisherVectors(*model.encode_collection(rows, variant=options.variant))
    vectors.save(options.out)
    _describe_vectors(vectors)


def _inspect(options: argparse.Namespace) -> None:
    for path in options.paths:
        if "has_vector" in files.array_names(path):
            vectors = fisher.FisherVectors.load(path)
            print(f"{path}:")
            _describe_vectors(vectors)
        else:
            model = fisher.Model.load(path)
            print(f"{path}:")
            _describe_model(model)


def _describe_model(model: fisher.Model) -> None:
    print(f"Fisher model of {model.num_rows} rows of {model.num_dims} values, seed {model.seed}")
    for name, (columns, pca, gmm) in model.parts.items():
        end = model.num_dims if columns.end is None else columns.end
        root = ", square roots" if columns.square_root else ""
        print(f"{name} (columns {columns.begin}:{end}{root})")
        kept = f"{pca.explained_variance_kept_:.4f} in {len(pca.components_)} components"
        print(f"  explained variance {kept}")
        state = "converged" if gmm.converged_ else "not converged"
        print(f"  mixture            {gmm.num_iterations_} iterations, {state}")
        print(f"  log-likelihood     {gmm.log_likelihood_:.4f} per row")
        print(f"  component weights  {_spread(gmm.weights_)}")
        print(f"  norms of means     {_spread(np.linalg.norm(gmm.means_, axis=1))}")
    sketched = f", sketched from {model.sketch.dim_in}" if model.sketch else ""
    print(f"vector length        {model.num_values} values{sketched}")
    print(f"source               {json.dumps(model.source)}")


def _describe_vectors(vectors: fisher.FisherVectors) -> None:
    num_items, num_values = vectors.vectors.shape
    print(f"{vectors.has_vector.sum()} of {num_items} items have a vector of {num_values} values")
    if vectors.has_vector.any():
        norms = np.linalg.norm(vectors.vectors[vectors.has_vector], axis=1)
        print(f"  norms              {_spread(norms)}")


def _spread(values: np.ndarray) -> str:
    low, *quartiles, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    middle = " ".join(f"{quartile:.4g}" for quartile in quartiles)
    return f"min {low:.4g}, quartiles {middle}, max {high:.4g}"


def _bar(names: Iterable[str], desc: str) -> Iterable[str]:
    return tqdm(names, desc=f"fisher: {desc}", unit="item", mininterval=1.0)


if __name__ == "__main__":
    main()
