"""Measure the linker against the films that the reviews' rows are known to be about.

python benchmarks/linking.py TRUTH [--data data/quickstart]

TRUTH is a CSV file (gzip allowed) with the columns csv_row (the row in the package's review
table, from 0) and movieId (of MovieLens, empty where the film has none). It only measures; the
linker never sees it.
"""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd

from seedtalk.sources.linking import THRESHOLDS


def measure(truth: Path, data: Path) -> pd.DataFrame:
    """Return precision and recall of the links to rated films at each level of linking.

    Precision counts the links that name the row's film. Recall counts the rows about a rated
    film that are linked to it. Columns: linking, min_ratings (of the films counted), linked,
    films, precision, rows, recall.
    """
    from seedtalk.sources.quickstart import read_and_link

    linked = read_and_link(data)
    known = pd.read_csv(truth).set_index("csv_row")["movieId"]
    about = linked.rows.map(known).to_numpy()
    film = pd.Series(linked.links.film).map(dict(enumerate(linked.film_ids))).to_numpy()
    positive = linked.polarity.to_numpy() == 1
    counts = linked.ratings["movieId"].value_counts()
    rows = []
    for linking in THRESHOLDS:
        accepted = linked.links.accepted(linking)
        for least in (1, 5, 10, 20):
            enough = set(counts.index[counts >= least])
            chosen = accepted & pd.Series(film).isin(enough).to_numpy()
            wanted = pd.Series(about).isin(enough).to_numpy()
            right = chosen & (film == about)
            rows.append(
                {
                    "linking": linking,
                    "min_ratings": least,
                    "linked": int(chosen.sum()),
                    "films": len(set(film[chosen])),
                    "precision": right.sum() / max(chosen.sum(), 1),
                    "rows": int(wanted.sum()),
                    "recall": right.sum() / max(wanted.sum(), 1),
                    "positive": right[positive].sum() / max(wanted[positive].sum(), 1),
                    "negative": right[~positive].sum() / max(wanted[~positive].sum(), 1),
                }
            )
    return pd.DataFrame(rows)


@click.command(help=__doc__)
@click.argument("truth", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), default="data/quickstart")
def main(truth: Path, data: Path) -> None:
    """Print the table."""
    click.echo(measure(truth, data).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
