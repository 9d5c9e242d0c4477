"""Words the extractive teacher knows: what people say of a work, and how they say it well.

Plain English word lists, written for this project. They decide which words of a review are used,
never what is said: every phrase comes from the review itself. Most hold of any domain; what only a
film or only a book has is told apart by `domain`.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> frozenset[str]:
    return frozenset(" ".join(phrase.split()) for phrase in text.split(","))


# Aspects of a work by how they take an article: "superb acting", "a clever plot", "sharp lines".
MASS = _phrases(
    """acting, action, animation, atmosphere, camera work, camerawork, camera-work, character
    development, chemistry, choreography, cinematography, craftsmanship, dialogue, dialog,
    direction, editing, energy, fight choreography, humor, humour, imagery, intrigue, irony,
    lighting, makeup, music, nostalgia, pacing, passion, photography, romance, satire, scenery,
    slapstick, storytelling, sound design, style, suspense, tension, violence, wit, writing,
    stop-motion animation, special effects work, black humor, black humour, dark humor, dark
    humour, dry humor, screenwriting, production design, set design, costume design, art
    direction, social commentary, word play, wordplay, banter, heart, warmth, charm,
    originality, realism, emotion, gore, mayhem, filmmaking, film making, film-making"""
)
COUNT = _phrases(
    """adaptation, car chase, cast, character study, climax, concept, ending, ensemble, ensemble
    cast, fairy tale, family story, finale, friendship, ghost story, heist, hero, heroine,
    lead performance, look, love story, love triangle, message, mood, narrative, opening
    scene, opening sequence, pace, plot, plot twist, premise, protagonist, score,
    screenplay, script, sense of humor, sense of humour, setting, soundtrack, story, story
    line, storyline, supporting cast, supporting performance, theme, tone, twist, twist
    ending, villain, visual style, whodunit, world, coming-of-age story, coming of age
    story, murder mystery, feel, vibe, crime story, revenge story, rivalry, plot line,
    character piece, musical score, film score"""
)
PLURAL = _phrases(
    """action scenes, action sequences, battle scenes, battles, car chases, chase scenes, chases,
    characterizations, characters, comic moments, costumes, dance numbers, dance sequences,
    details, dialogues, effects, emotions, fight scenes, fights, gags, gun fights, gunfights,
    images, jokes, landscapes, laughs, lines, locations, moments, musical numbers, numbers,
    one-liners, one liners, performances, plot twists, puns, puppets, relationships, scares,
    scenes, sequences, set pieces, sets, shootouts, songs, special effects, stunts, supporting
    performances, surprises, themes, thrills, tunes, twists, twists and turns, villains, visual
    effects, visuals, vistas, dance scenes, stories, ideas, backdrops, supporting characters,
    lead performances, gadgets, creatures, monsters, references, portrayals"""
)
# One of a kind that is wished for in the plural: "a brilliant performance" -> performances.
SINGULAR = {
    "performance": "performances",
    "supporting performance": "supporting performances",
    "portrayal": "portrayals",
    "character": "characters",
    "scene": "scenes",
    "sequence": "sequences",
    "moment": "moments",
    "joke": "jokes",
    "line": "lines",
    "song": "songs",
    "actors": "actors",
    "actresses": "actresses",
    "acting performance": "performances",
    "action scene": "action scenes",
    "action sequence": "action sequences",
    "fight scene": "fight scenes",
    "chase scene": "chase scenes",
    "dance number": "dance numbers",
    "stunt": "stunts",
    "effect": "effects",
}
# What a whole work is called; adjectives before it are its tone.
WORKS = _words(
    """film movie flick picture thriller comedy drama musical western masterpiece classic story
    experience romance mystery satire adventure piece ride tale entertainment book novel read
    game album series show"""
)

# What a seeker may want of an aspect. None says that something is bad, or how long or old it is.
WANTED = _words(
    """absorbing abstract accomplished action-packed addictive adorable affecting affectionate airy
    alluring amazing ambiguous ambitious amusing apocalyptic artful artistic arresting
    astonishing astounding atmospheric authentic awesome awe-inspiring beautiful believable
    beloved bewitching bittersweet bizarre bleak bloody bold brave breathtaking bright brilliant
    brooding brutal buoyant campy candid captivating caustic cerebral charismatic charming
    cheerful cheesy chilling classic classy clean clever clever colorful colourful comedic comic
    comical compassionate compelling complex complicated convincing cozy crafty crazy creative
    creepy crisp cunning cute cynical dark daring dazzling deadpan deep delicate delicious
    delightful delirious dense detailed devastating disturbing dramatic dreamlike dreamy dry
    dynamic earnest eccentric eclectic edgy eerie effective elaborate electric electrifying
    elegant eloquent emotional emotive empathetic enchanting endearing energetic engaging
    engrossing enigmatic enjoyable entertaining enthralling enticing epic erotic ethereal
    evocative excellent exceptional exciting exhilarating exotic expert explosive expressive
    exquisite extraordinary fabulous fantastic fascinating fast fast-moving fast-paced feel-good
    fiendish fierce fine first-rate flamboyant flawless fluid freaky frenetic fresh frightening
    fun funny futuristic gentle genuine ghastly gloomy glorious good gorgeous gothic graceful
    grand grandiose great gripping grisly gritty grotesque grounded hard-boiled hard-hitting
    harrowing haunting heart-breaking heart-rending heart-warming heartbreaking heartfelt
    heartwarming heroic hilarious honest hopeful horrific horrifying human humane humorous
    hypnotic iconic idiosyncratic imaginative immersive impeccable impressive incisive
    incredible infectious ingenious innocent innovative insane insightful inspirational inspired
    inspiring intelligent intense interesting intimate intricate intriguing inventive ironic
    irreverent jaw-dropping joyful joyous kinetic labyrinthine laid-back lavish layered lean
    light light-hearted lighthearted likable likeable literate lively logical lovable lovely
    low-key lush lyrical macabre magic magical magnetic magnificent majestic marvelous
    marvellous masterful masterly mature meaningful meditative melancholic melancholy mellow
    memorable menacing mesmerising mesmerizing meticulous mind-bending mischievous moody morbid
    moving multi-layered muscular mysterious mystical mythic mythical naive naturalistic natural
    neat nerve-wracking nail-biting noble nostalgic nuanced oddball off-beat off-the-wall
    offbeat old-fashioned operatic opulent original outlandish outrageous outstanding
    over-the-top paranoid passionate peculiar perceptive perfect perverse philosophical
    picturesque pitch-perfect playful pleasant poetic poignant polished political potent
    powerful precise profound provocative psychedelic psychological pulpy pulsating punchy
    quaint quick quick-witted quiet quietly quirky quotable racy raucous raw realistic refined
    refreshing relatable relaxed relentless remarkable resonant restrained retro rich riotous
    risque riveting robust rollicking romantic rousing sad sarcastic sardonic satirical
    satisfying savage savvy scary scathing scenic seamless seductive sensational sensible
    sensitive sensual sentimental serene serious sexy sharp shocking silly simple sincere
    sinister skilful skillful slapstick sleek slick slow-burning sly smart smooth snappy sober
    soaring solid somber sombre soothing sophisticated soulful sparkling spectacular spectral
    spellbinding spirited spiritual splendid spooky stark startling stellar stirring stoic
    straight-forward straightforward strange striking strong stunning stylish stylised stylized
    subdued sublime subtle subversive suggestive sumptuous superb superior surprising surreal
    surrealistic suspenseful swashbuckling sweeping sweet swift sympathetic tantalizing taut
    tender tense terrific terrifying thematic thought-provoking thoughtful thrilling tight
    tight-knit timeless timely top-notch touching tough tragic tragicomic tranquil transcendent
    triumphant truthful twisted twisting twisty unconventional uncompromising understated
    unexpected unforgettable unflinching unique universal unnerving unorthodox unpredictable
    unpretentious unrelenting unsettling unusual upbeat uplifting urgent vibrant vicious vintage
    violent visceral visionary visual vivid volatile vulnerable wacky warm warm-hearted weird
    well-acted well-choreographed well-constructed well-crafted well-directed well-done
    well-drawn well-developed well-executed well-made well-paced well-played well-rounded
    well-scripted well-shot well-told well-thought-out well-written whimsical wicked wild
    winning wise wistful witty wonderful wondrous world-class worthy wry young zany"""
)
INTENSIFIERS = _words(
    """absolutely achingly always beautifully brilliantly cleverly completely consistently darkly
    deceptively deeply deliciously delightfully emotionally endlessly exceptionally
    extraordinarily extremely genuinely gloriously hauntingly highly hilariously hugely
    immensely incredibly insanely intensely intricately lovingly masterfully morally oddly
    perfectly pretty psychologically quite rather really refreshingly remarkably skilfully
    skillfully so strangely strikingly stunningly subtly superbly surprisingly terribly
    thoroughly totally truly uniquely unusually utterly very visually vividly well wickedly
    wildly wonderfully"""
)
# "beautifully shot", "cleverly written": what an intensifier may stand before.
MADE = _words(
    """acted balanced cast choreographed composed conceived constructed crafted designed developed
    directed done drawn edited executed filmed handled imagined layered lit made narrated
    observed paced performed photographed played plotted portrayed produced realised realized
    rendered scored scripted shot staged structured told woven written"""
)

LIKED = WANTED - _words(
    "better black different slow simple young visual comic animated natural"
) | (
    _words(
        """admire adore appreciate awards awe beautifully best brilliantly captivated captivates
        captures charm classic delight delivers enjoy enjoyed enjoyable enjoys favorite favourite
        gem genius grips hooked joy laugh laughed laughing laughs love loved loves masterpiece
        must-see perfectly pleasure recommend recommended rewarding rivals shines shine superbly
        treat treasure triumph underrated unmissable wonderfully worth wow"""
    )
)
DISLIKED = _words(
    """amateurish annoying annoyed atrocious average awful awkward bad badly barely bland bore
    bored boring cardboard cheap cliche cliched cliches clichéd clumsy confused confusing
    contrived crap crappy cringe cringe-worthy dated disappointed disappointing
    disappointment disaster disjointed dreadful drivel dull dumb embarrassing empty
    excruciating fail failed fails failure fake falls far-fetched flat flaw flawed flaws
    forced forgettable garbage hate hated hideous hollow horrible idiotic implausible
    incoherent inane inept insult insulting junk lack lacked lacking lacks lame laughable
    lazy lifeless lousy mediocre mess miscast misfire mistake mistakes monotonous negative
    nonsense obnoxious overdone overlong overrated pathetic painful pointless poor poorly
    predictable preachy pretentious problem problems ridiculously rubbish sadly shallow
    sloppy slow-moving stupid sucked sucks tedious terrible tired tiresome trash trite ugly
    unbearable unbelievable unconvincing uneven unfortunately unfunny uninspired
    uninteresting criticised criticized unnecessary unoriginal unwatchable useless wasted
    waste weak wooden worse worst yawn"""
)
NEGATIONS = _words(
    """not no never n't without neither nor hardly barely isn't wasn't aren't weren't don't doesn't
    didn't can't couldn't won't wouldn't shouldn't haven't hasn't hadn't ain't cannot lack lacks
    lacking lacked less least few could should would might if unless despite instead too nothing
    none only except but although though supposed tries tried trying wanted expected expecting
    hoping hoped"""
)
PERSONAL = _words(
    """i i'm i've i'd i'll me my mine myself we we're we've us our you your you're you'll you've he
    she him her his hers himself herself he's she's they're imo imho lol wife husband daughter son
    kids mom dad girlfriend boyfriend"""
)
# A sentence that opens with one of these leans on the sentence before it.
LEANING = _words(
    """and but or so also however then because although though yet still besides moreover
    furthermore plus therefore thus instead otherwise these those that he she they him her his their
    nevertheless nonetheless anyway finally secondly second third next again another other both
    neither either which who whose whom here now while when if after before once since as even
    especially particularly overall like unlike unfortunately sadly firstly first lastly maybe
    perhaps well oh ok okay yes no not than to for of on at by from"""
)
OPENERS = _words(
    """the a an this it it's its there there's every everything all what with full beautifully great
    brilliant excellent superb wonderful one truly simply amazing funny scary acting
    cinematography dialogue performances very highly absolutely visually in such never nothing
    some many most each your solid stunning fantastic outstanding gripping hilarious moving
    suspenseful director directed direction music photography visuals script special"""
)

# Subjects that stand without an article: "a drama about love and revenge".
SUBJECTS = _words(
    """addiction adolescence adultery aging alcoholism ambition apartheid art baseball basketball
    betrayal blackmail bullying capitalism censorship childhood communism corruption courage
    crime cruelty culture death deception depression desire despair destiny divorce drugs
    education evil faith fame family fate fatherhood football forgiveness freedom friendship
    gambling greed grief guilt happiness history holidays honor honour hope identity
    immigration innocence insanity jazz jealousy journalism justice kidnapping loneliness
    loss love loyalty lust madness magic marriage memory money morality motherhood murder
    nature obsession opera parenthood poetry politics poverty power prejudice prison
    prostitution racism redemption religion revenge revolution romance royalty sacrifice
    school science seduction sex slavery space sports suicide survival technology temptation
    terrorism theater theatre time-travel tragedy trust vengeance violence war wealth
    witchcraft youth"""
)
# Plurals that say nothing of what a story holds.
EMPTY_PLURALS = _words(
    """actors actresses ages always areas arms articles aspects audiences awards books budgets
    cameras cases casts causes chances changes characters choices cinemas circumstances
    cliches comments comparisons critics curves days decades defects details directors discs
    earlies eighties elements ends episodes errors events expectations extras eyes facts
    families fans favorites feelings fifties filmmakers films flashes flaws flicks folks
    forties forms friends games genres goods grounds guys hands highs hopes hours ideas
    instances issues items kinds ladies lengths levels lights likes limits lots lovers
    makers masses masterpieces matters means men minds minutes mistakes moments months
    movies names nights nineties novels numbers others parts people perspectives pictures
    pieces places players plays plots points previews principals problems producers
    proceedings purists purposes questions reasons releases remarks resources results
    reviews reviewers roles rounds rules scenes screens scripts seasons sequels sets
    settings seventies shoes shots shows sides signs sixties sorts sounds spoilers stages
    standards stars steps stories studios subjects sums tapes tastes teens terms things
    thoughts times titles tones topics turns types values versions videos views viewers
    viewings ways weeks words works writers years youngsters"""
)

# Genre names as catalogues write them: what stands before a noun, or is one.
GENRE_MODIFIERS = {
    "action": "action",
    "adventure": "adventure",
    "animation": "animated",
    "children": "family",
    "children's": "family",
    "family": "family",
    "comedy": "comedy",
    "crime": "crime",
    "drama": "dramatic",
    "fantasy": "fantasy",
    "film-noir": "noir",
    "history": "historical",
    "horror": "horror",
    "musical": "musical",
    "mystery": "mystery",
    "romance": "romantic",
    "sci-fi": "science fiction",
    "science fiction": "science fiction",
    "sport": "sports",
    "thriller": "suspense",
    "war": "war",
    "western": "western",
}
GENRE_NOUNS = {
    "thriller": "thriller",
    "comedy": "comedy",
    "drama": "drama",
    "musical": "musical",
    "western": "western",
    "documentary": "documentary",
    "mystery": "mystery",
    "adventure": "adventure",
}


@dataclass(frozen=True)
class Domain:
    """What the works of one domain are called, and what else there is to say of them.

    Attributes
    ----------
    named
        What a review calls the work it is about: "this film is", "a film about".
    praised
        Names after which adjectives are the work's: "the film is dark".
    works, mass, count, plural
        Beside the lists of those names above.
    foreign
        Words that speak of another kind of work: no phrase or sentence with one is used.
    avoid
        How the recommender asks what is not wanted.
    """

    named: tuple[str, ...]
    praised: tuple[str, ...]
    works: frozenset[str] = frozenset()
    mass: frozenset[str] = frozenset()
    count: frozenset[str] = frozenset()
    plural: frozenset[str] = frozenset()
    foreign: frozenset[str] = frozenset()
    avoid: str = "Anything you'd rather avoid?"


FILM = Domain(
    named=("film", "movie"),
    praised=("film", "movie", "book", "game"),
    avoid="Anything you'd rather not see?",
)
WATCHED = _words(
    """cinema cinemas cinematic film films filmed filming filmmaker filmmakers filmmaking flick
    flicks footage hollywood movie movies onscreen screen screens viewer viewers viewing watch
    watchable watched watches watching"""
)
BOOK = Domain(
    named=("book", "novel", "memoir", "biography", "autobiography", "collection", "volume"),
    praised=("book", "novel", "memoir", "biography", "story"),
    works=_words(
        """anthology autobiography biography collection cookbook fable guide handbook introduction
        memoir overview page-turner parable portrait reference resource saga source textbook
        travelogue volume whodunit"""
    ),
    mass=_phrases(
        """advice, analysis, detail, information, insight, inspiration, knowledge, prose, poetry,
        research, scholarship, world-building, world building, wisdom"""
    ),
    count=_phrases("argument, history, mystery, narrator, page-turner, perspective, voice, vision"),
    plural=_phrases(
        """anecdotes, arguments, chapters, descriptions, essays, examples, exercises, explanations,
        illustrations, insights, lessons, photographs, photos, poems, recipes, short stories"""
    ),
    foreign=WATCHED
    | _words(
        """acted acting actor actors actress actresses audience audiences camera camerawork cast
        choreographed choreography cinematography costumes directed direction director directors
        documentary dvd dvds editing effects episode episodes lighting makeup performance
        performances photographed producers remake scored screenplay sets shootouts shot shots
        songs soundtrack staged stunt stunts television theater theaters theatre tunes tv visuals"""
    ),
)


def domain(thing: str) -> Domain:
    """Return the words of the domain whose works are called `thing`; of any other, what all share.

    Parameters
    ----------
    thing
        One work, as a prompt's <domain> block calls it: film, book, game, restaurant.
    """
    for known in (FILM, BOOK):
        if thing.lower() in known.named:
            return known
    return Domain(named=(thing.lower(),), praised=(thing.lower(),), foreign=WATCHED)
