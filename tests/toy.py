"""Tiny stand-ins for the real models and data, made on the fly and the same every time.

``python tests/toy.py FOLDER`` writes ``encoder/``, ``student/``, ``items.jsonl``,
``reviews.jsonl`` and ``interactions.jsonl`` into FOLDER. The films and the sentences are
invented here; nothing is taken from a data set. Both models are random: they show that the
machinery works, not that it learns much.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

GENRES: dict[str, dict[str, list[str]]] = {
    "Comedy": {
        "titles": [
            "The Umbrella Auditors",
            "Nine Cousins for Dinner",
            "A Goat in the Ministry",
            "My Landlord Sings",
            "Waltz of the Plumbers",
            "Second Breakfast Club",
            "The Reluctant Mayor of Brindle",
            "Pudding Season",
        ],
        "nouns": ["joke", "prank", "slapstick", "wedding speech", "running gag"],
        "feelings": ["silly", "charming", "cheerful", "daft", "witty"],
    },
    "Horror": {
        "titles": [
            "The Cellar Keeps Count",
            "Moth Liturgy",
            "What the Well Repeats",
            "Teeth of the Orchard",
            "Thirteen Wax Children",
            "The Night Ferry to Ulm Island",
            "Hollow Hymnal",
            "Lantern Without a Hand",
        ],
        "nouns": ["haunted corridor", "scare", "creature", "seance", "walled-up door"],
        "feelings": ["creepy", "dreadful", "eerie", "gruesome", "unsettling"],
    },
    "Science Fiction": {
        "titles": [
            "Cargo of Quiet Stars",
            "The Ninth Airlock",
            "Orbit of the Clockmakers",
            "Signal from Tessel Prime",
            "Rust Garden on Europa Street",
            "The Copper Android",
            "Half a Light Year Home",
            "Parliament of Satellites",
        ],
        "nouns": ["spaceship", "android", "time paradox", "alien signal", "zero gravity fight"],
        "feelings": ["visionary", "brainy", "futuristic", "strange", "cosmic"],
    },
    "Romance": {
        "titles": [
            "Letters to the Lighthouse Baker",
            "Autumn in Vellimar",
            "The Cartographer's Bride",
            "Two Tickets for the Rain",
            "A Harbour Called Marguerite",
            "The Piano Tuner's Apology",
            "Slow Dance in Kitzendorf",
            "Paper Boats for Elena",
        ],
        "nouns": [
            "first kiss",
            "love letters",
            "goodbye at the station",
            "courtship",
            "love story",
        ],
        "feelings": ["tender", "romantic", "bittersweet", "warm", "wistful"],
    },
    "Crime": {
        "titles": [
            "The Ledger of Finch Alley",
            "Six Alibis",
            "Harbour Police Blues",
            "The Magistrate's Glove",
            "Counterfeit Sunday",
            "Dead Drop at Pier Forty",
            "The Locksmith Confesses",
            "Grey Ransom",
        ],
        "nouns": ["heist", "detective", "interrogation", "double cross", "getaway chase"],
        "feelings": ["gritty", "tense", "hard-boiled", "twisty", "cynical"],
    },
}
PEOPLE = ["Odile Marsh", "Bram Tolliver", "Suki Arden", "Petra Voss", "Ivo Lindqvist", "Nell Amat"]
GOOD = ["superb", "gripping", "lovely", "a joy", "beautifully judged", "far better than I expected"]
BAD = [
    "tedious",
    "clumsy",
    "a letdown",
    "painfully slow",
    "half finished",
    "worse than I feared",
]
OPENINGS = [
    "I watched {title} on a {night} with {company} and it was {verdict}.",
    "{company_c} talked me into this film, and I found it {verdict}.",
    "After a long {night} I wanted something {feeling}, and this was {verdict}.",
    "It took me years to get round to {title}; the whole thing is {verdict}.",
    "There are many {feeling} films about a {noun}, but this one is {verdict}.",
]
MIDDLES = [
    "The {noun} in the {part} act is {feeling}, and {person} plays it with {manner}.",
    "{person} carries the story, although the {craft} is what I still think about.",
    "What stays with me is the {noun}: {feeling}, patient and full of {manner}.",
    "The {craft} gives every {noun} a {feeling} edge that few directors dare to try.",
    "Around the {part} hour the plot turns on a {noun}, and the mood becomes {feeling}.",
    "I kept waiting for the {craft} to fail, yet the {noun} held my attention.",
]
CLOSINGS = {
    True: [
        "I would gladly see it again with {company}.",
        "Anyone who likes a {feeling} {noun} should look for it.",
        "It earns its ending, and the last {noun} made me smile for days.",
    ],
    False: [
        "I would not sit through it again, not even with {company}.",
        "Anyone who likes a {feeling} {noun} deserves something better.",
        "By the last {noun} I had stopped caring about anybody in it.",
    ],
}
NIGHTS = ["rainy Tuesday", "quiet Sunday", "cold evening", "train ride", "summer night"]
COMPANIES = ["my sister", "two old friends", "my neighbours", "the film club", "my grandfather"]
CRAFTS = ["camera work", "music", "editing", "set design", "dialogue", "lighting"]
MANNERS = ["restraint", "mischief", "a quiet fury", "patience", "surprising grace"]
PARTS = ["first", "second", "third", "final"]

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def toy_encoder(folder: Path) -> Path:
    """Write a random two-layer BERT sentence encoder, laid out as all-MiniLM-L6-v2 is."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    words = sorted({word for text in _sentences() for word in _words(text)} - set(letters))
    entries = dict.fromkeys([*SPECIALS, *letters, *(f"##{c}" for c in letters), *words])
    vocabulary = {token: index for index, token in enumerate(entries)}
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        model_max_length=512,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
        initializer_range=0.3,  # wide, so that different texts get different vectors
        pad_token_id=vocabulary["[PAD]"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    _write_json(folder / "modules.json", modules)
    _write_json(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
    )
    return folder


def toy_student(folder: Path) -> Path:
    """Write a random two-layer Llama with a byte-level tokenizer and a ChatML template."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        _sentences(),
        trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=[AddedToken(token, special=True) for token in specials],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # every byte: any text
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        model_max_length=2048,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def toy_corpus(folder: Path, seed: int = 0) -> Path:
    """Write 40 invented films, 300 reviews and 80 users' ratings in the ``jsonl`` schema.

    Every user likes one genre and half of another, at least ten films, so that collaborative
    filtering and the reviews' words both carry signal.
    """
    chance = random.Random(seed)
    items = toy_items()
    by_genre = {genre: [i for i in items if i["genres"][0] == genre] for genre in GENRES}
    interactions: list[dict[str, Any]] = []
    for user in range(80):
        first = list(GENRES)[user % len(GENRES)]
        second = chance.choice([genre for genre in GENRES if genre != first])
        liked = by_genre[first] + chance.sample(by_genre[second], 4)
        others = [item for item in items if item not in liked]
        rated = [(item, chance.choice([4, 4.5, 5])) for item in liked]
        rated += [(item, chance.choice([1, 1.5, 2, 3])) for item in chance.sample(others, 5)]
        rated += [(item, 4) for item in chance.sample(others, 1)]
        for item, rating in {item["item_id"]: rating for item, rating in rated}.items():
            interactions.append(
                {
                    "user_id": f"u{user:03d}",
                    "item_id": item,
                    "rating": rating,
                    "timestamp": 1_500_000_000 + chance.randrange(100_000_000),
                }
            )
    titles = {item["item_id"]: item for item in items}
    reviews = [
        {
            "review_id": f"r{number:04d}",
            "item_id": row["item_id"],
            "user_id": row["user_id"],
            "rating": (row["rating"] - 1) / 4,
            "text": _review(titles[row["item_id"]], row["rating"] >= 4, chance),
        }
        for number, row in enumerate(chance.sample(interactions, 300))
    ]
    for name, rows in (("items", items), ("reviews", reviews), ("interactions", interactions)):
        _write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def toy_items() -> list[dict[str, Any]]:
    """Return the 40 invented films as rows of ``items.jsonl``."""
    chance = random.Random(0)
    items: list[dict[str, Any]] = []
    for genre, words in GENRES.items():
        for title in words["titles"]:
            noun, feeling = chance.choice(words["nouns"]), chance.choice(words["feelings"])
            other = chance.choice([name for name in GENRES if name != genre])
            items.append(
                {
                    "item_id": f"f{len(items):03d}",
                    "title": title,
                    "year": chance.randrange(1950, 2024),
                    "genres": [genre] if chance.random() < 0.6 else [genre, other],
                    "description": f"A {feeling} {genre.lower()} film around a {noun}, with "
                    f"{chance.choice(PEOPLE)}.",
                }
            )
    return items


def write_toy(folder: Path) -> None:
    """Write everything into `folder`."""
    toy_encoder(folder / "encoder")
    toy_student(folder / "student")
    toy_corpus(folder)


def _review(item: dict[str, Any], good: bool, chance: random.Random) -> str:
    """Return a review of 200 to 500 characters."""
    words = GENRES[item["genres"][0]]
    while True:
        company = chance.choice(COMPANIES)

        def fill(template: str, company: str = company) -> str:
            return template.format(
                title=item["title"],
                night=chance.choice(NIGHTS),
                company=company,
                company_c=company[0].upper() + company[1:],
                verdict=chance.choice(GOOD if good else BAD),
                feeling=chance.choice(words["feelings"]),
                noun=chance.choice(words["nouns"]),
                person=chance.choice(PEOPLE),
                craft=chance.choice(CRAFTS),
                manner=chance.choice(MANNERS),
                part=chance.choice(PARTS),
            )

        parts = [chance.choice(OPENINGS), *chance.sample(MIDDLES, chance.choice([2, 3]))]
        text = " ".join(fill(part) for part in [*parts, chance.choice(CLOSINGS[good])])
        if 200 <= len(text) <= 500:
            return text


def _sentences() -> list[str]:
    """Return the texts both tokenizers are made from."""
    chance = random.Random(0)
    items = toy_items()
    reviews = [_review(item, good, chance) for item in items for good in (True, False)]
    about = [
        f"{i['title']} ({i['year']}) {' '.join(i['genres'])} {i['description']}" for i in items
    ]
    return reviews + about


def _words(text: str) -> list[str]:
    from tokenizers import normalizers, pre_tokenizers

    lower = normalizers.BertNormalizer(lowercase=True).normalize_str(text)
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(lower)]


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write_toy(Path(sys.argv[1]))
