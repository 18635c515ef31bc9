"""A second set of classes for the same pictures: by mood, place and use instead of by kind.

Most classes take emoji, by their labels, from several classes of the first set (`classes.py`).
Emoji that fit none are left out. Each keeps the split that the first set gives it, so that what
the tiny CLIP's pretraining held out stays held out. Labels are numbered in the order here.
"""

from collections import Counter

from .card import table
from .grouping import SPLITS
from .sources import DOMAINS

_CLASSES = {
    "bread or cake": (
        "bagel; baguette bread; bread; burrito; croissant; flatbread; hamburger; hot dog; pancakes;"
        "pretzel; pizza; sandwich; stuffed flatbread; taco; tamale; waffle; fortune cookie;"
        "moon cake; birthday cake; cookie; cupcake; doughnut; pie; shortcake; dumpling; falafel"
    ),
    "car, bus or train": (
        "ambulance; articulated lorry; auto rickshaw; automobile; bus; delivery truck; fire engine;"
        "minibus; oncoming automobile; oncoming bus; oncoming police car; oncoming taxi;"
        "pickup truck; police car; racing car; sport utility vehicle; taxi; tractor; trolleybus;"
        "bullet train; high-speed train; light rail; locomotive; metro; monorail;"
        "mountain railway; railway car; station; suspension railway; train; tram; tram car"
    ),
    "clothes or shoes": (
        "bikini; briefs; coat; dress; gloves; jeans; kimono; lab coat; martial arts uniform;"
        "necktie; one-piece swimsuit; running shirt; safety vest; sari; scarf; shorts; socks;"
        "t-shirt; woman’s clothes; ballet shoes; flat shoe; high-heeled shoe; hiking boot;"
        "man’s shoe; running shoe; thong sandal; woman’s boot; woman’s sandal; roller skate"
    ),
    "cup, bowl or pot": (
        "baby bottle; beer mug; beverage box; bottle with popping cork; bubble tea;"
        "clinking beer mugs; clinking glasses; cocktail glass; cup with straw; glass of milk;"
        "hot beverage; mate; sake; teacup without handle; teapot; tropical drink; tumbler glass;"
        "wine glass; bowl with spoon; cooked rice; cooking; curry rice; custard; fondue;"
        "green salad; pot of food; shallow pan of food; spaghetti; steaming bowl"
    ),
    "farm animal or pet": (
        "cat; cat face; black cat; chicken; baby chick; front-facing baby chick; hatching chick;"
        "cow; cow face; dog; dog face; donkey; ewe; goat; guide dog; hamster; horse; horse face;"
        "llama; mouse; mouse face; ox; pig; pig face; poodle; rabbit; rabbit face; ram;"
        "water buffalo"
    ),
    "finger or fist": (
        "backhand index pointing down; backhand index pointing up; crossed fingers;"
        "hand with index finger and thumb crossed; index pointing at the viewer;"
        "index pointing up; left-facing fist; love-you gesture; middle finger; OK hand;"
        "oncoming fist; pinched fingers; pinching hand; raised fist; right-facing fist;"
        "sign of the horns; thumbs down; thumbs up; victory hand; writing hand; boxing glove"
    ),
    "fruit or vegetable": (
        "banana; blueberries; cherries; coconut; grapes; green apple; kiwi fruit; lemon; mango;"
        "melon; olive; peach; pear; pineapple; red apple; strawberry; tangerine; tomato;"
        "watermelon; avocado; beans; bell pepper; broccoli; carrot; chestnut; cucumber;"
        "ear of corn; eggplant; garlic; ginger root; hot pepper; leafy green; mushroom; onion;"
        "pea pod; peanuts; potato; roasted sweet potato"
    ),
    "hat or helmet": (
        "billed cap; cowboy hat face; crown; graduation cap; military helmet;"
        "rescue worker’s helmet; top hat; woman’s hat; astronaut; construction worker; man cook;"
        "man farmer; man firefighter; man pilot; police officer; Santa Claus; woman detective;"
        "woman guard; person with skullcap; woman wearing turban; prince; student; mage"
    ),
    "house or tower": (
        "bank; castle; church; classical building; convenience store; department store;"
        "derelict house; factory; hindu temple; hospital; hotel; house; house with garden; houses;"
        "hut; Japanese castle; Japanese post office; kaaba; love hotel; mosque; office building;"
        "post office; school; shinto shrine; stadium; synagogue; Tokyo tower; wedding;"
        "circus tent; cityscape at dusk; camping"
    ),
    "man, woman or child": (
        "baby; breast-feeding; child; girl; old man; old woman; person: beard; person: curly hair;"
        "person feeding baby; person with veil; pregnant person; technologist; woman artist;"
        "woman in tuxedo; woman mechanic; woman: red hair; woman teacher; woman: white hair;"
        "woman with headscarf; health worker; man judge; office worker; scientist; factory worker;"
        "woman getting massage; man getting haircut; man kneeling; person standing; baby symbol"
    ),
    "music, film or game": (
        "accordion; banjo; bell; drum; flute; guitar; long drum; maracas; musical keyboard;"
        "postal horn; saxophone; trumpet; violin; headphone; microphone; studio microphone; radio;"
        "camera; camera with flash; film projector; joystick; movie camera; television;"
        "video camera; video game; man singer"
    ),
    "open hand": (
        "call me hand; clapping hands; folded hands; hand with fingers splayed; handshake;"
        "heart hands; leftwards pushing hand; open hands; palm down hand; palm up hand;"
        "palms up together; raised back of hand; raising hands; rightwards hand;"
        "rightwards pushing hand; vulcan salute; waving hand"
    ),
    "paper, phone or computer": (
        "bookmark tabs; books; card index; calendar; clipboard; closed book; green book; ledger;"
        "memo; newspaper; love letter; notebook; notebook with decorative cover; open book;"
        "page facing up; page with curl; receipt; rolled-up newspaper; scroll; spiral calendar;"
        "spiral notepad; e-mail; computer mouse; desktop computer; fax machine; keyboard; laptop;"
        "mobile phone; mobile phone with arrow; pager; printer; telephone; telephone receiver;"
        "trackball"
    ),
    "plant": (
        "blossom; bouquet; cherry blossom; hibiscus; hyacinth; lotus; rose; rosette; sunflower;"
        "tulip; white flower; wilted flower; cactus; Christmas tree; deciduous tree;"
        "evergreen tree; fallen leaf; four leaf clover; herb; leaf fluttering in wind; maple leaf;"
        "palm tree; pine decoration; potted plant; seedling; shamrock; sheaf of rice; tanabata tree"
    ),
    "sad or angry face": (
        "angry face; anguished face; anxious face with sweat; confounded face; crying face;"
        "disappointed face; downcast face with sweat; enraged face; exploding head;"
        "face holding back tears; face screaming in fear; face with open mouth;"
        "face with steam from nose; face with symbols on mouth; fearful face; flushed face;"
        "grimacing face; loudly crying face; persevering face; pleading face;"
        "sad but relieved face; tired face; unamused face; weary face"
    ),
    "sick or sleepy face": (
        "drooling face; face exhaling; face vomiting; face with crossed-out eyes;"
        "face with head-bandage; face with medical mask; face with spiral eyes;"
        "face with thermometer; hot face; melting face; nauseated face; person in bed;"
        "shaking face; sleeping face; sleepy face; sneezing face; woozy face; yawning face"
    ),
    "sky or space": (
        "cloud; cloud with lightning and rain; comet; cyclone; fog; glowing star; milky way;"
        "new moon; rainbow; ringed planet; shooting star; star; sun; sun behind cloud;"
        "sun behind large cloud; sun with face; tornado; waning crescent moon; wind face;"
        "night with stars; sunrise; sunrise over mountains; bridge at night; moon viewing ceremony;"
        "satellite; rocket; flying saucer; airplane; airplane arrival; airplane departure;"
        "helicopter; parachute; small airplane"
    ),
    "smiling face": (
        "beaming face with smiling eyes; face blowing a kiss; face savoring food;"
        "face with open eyes and hand over mouth; face with hand over mouth;"
        "face with tears of joy; face with tongue; grinning face with big eyes;"
        "grinning face with smiling eyes; grinning face with sweat; money-mouth face; nerd face;"
        "partying face; rolling on the floor laughing; smiling face with halo;"
        "smiling face with heart-eyes; smiling face with hearts; smiling face with horns;"
        "smiling face with open hands; smiling face with sunglasses; smiling face with tear;"
        "smirking face; squinting face with tongue; star-struck; upside-down face; winking face;"
        "winking face with tongue; zany face"
    ),
    "snow or ice": (
        "cloud with snow; cold face; curling stone; ice cream; ice hockey; ice skate; mount fuji;"
        "penguin; polar bear; shaved ice; skier; skis; sled; snow-capped mountain; snowboarder;"
        "snowflake; snowman; snowman without snow; soft ice cream"
    ),
    "sport": (
        "american football; badminton; baseball; basketball; bowling; cricket game; field hockey;"
        "flying disc; goal net; lacrosse; ping pong; pool 8 ball; rugby football; soccer ball;"
        "softball; tennis; volleyball; man playing water polo; person playing handball;"
        "woman bouncing ball; woman golfing; horse racing; man biking; man lifting weights;"
        "man mountain biking; men wrestling; person cartwheeling; person fencing; person running;"
        "skateboard; woman climbing"
    ),
    "water or sea": (
        "canoe; ferry; motor boat; passenger ship; sailboat; ship; speedboat; blowfish; coral;"
        "crab; dolphin; fish; jellyfish; lobster; octopus; oyster; seal; shark; shrimp;"
        "spouting whale; squid; tropical fish; whale; water wave; beach with umbrella;"
        "desert island; diving mask; fishing pole; man surfing; man swimming; merperson;"
        "person rowing boat; person taking bath"
    ),
    "weapon or tool": (
        "axe; bomb; boomerang; bow and arrow; broom; carpentry saw; clamp; crossed swords; dagger;"
        "gear; hammer; hammer and pick; hammer and wrench; hook; kitchen knife; ladder;"
        "nut and bolt; pick; plunger; razor; safety pin; scissors; screwdriver; sewing needle;"
        "syringe; water pistol; wrench"
    ),
    "wild animal": (
        "badger; bear; beaver; bison; boar; camel; chipmunk; deer; elephant; fox; giraffe; gorilla;"
        "hedgehog; hippopotamus; kangaroo; koala; leopard; lion; mammoth; monkey; monkey face;"
        "moose; orangutan; otter; panda; raccoon; rat; rhinoceros; skunk; sloth; tiger; tiger face;"
        "two-hump camel; wolf; zebra"
    ),
    "winged animal": (
        "bat; bird; black bird; butterfly; dodo; dove; duck; eagle; flamingo; fly; goose; honeybee;"
        "lady beetle; mosquito; owl; parrot; peacock; rooster; swan; turkey"
    ),
}

NAMES = tuple(_CLASSES)

_TEXT = """# Emoji in six styles, regrouped

{classes} other classes for the pictures of `../emoji`: by mood, place and use instead of by kind.
Of its {all} objects {identities} are in, {images} images; the others fit none of the classes. No
picture is here, only labels; `data.name=emoji_regrouped` joins them. This file is written by
`tools/build_emoji.py`.

- `labels.csv`: identity (as in `../emoji/identities.csv`), class. The split is that of the first
  set: what is drawn in its test split is in this one's test split, and the same for the others.
- `classes.txt`: the class names in the order of the labels; the first half are the base classes of
  base-to-new protocols, the second half the new ones.

Identities per class (each is in all six domains, so images are six times as many):

{table}
Classes with fewer than 16 training images a domain: {small}.

## What the tiny CLIP has seen
The same as of the first set: drawings of *training* identities in the styles render, flat and
clipart, with their names, tags and hypernyms and **the first set's class names** as texts. No test
or validation identity in any style, nothing drawn in cartoon, stencil or sketch, and no class of
this set as a label; single words of its class names (`bread`, `snow`, `face`) occur among names
and tags. So it is another task on pictures from the same houses, not another kind of picture, and
some classes (`weapon or tool`, `wild animal`, `plant`) are near to ones of the first set. Its
zero-shot accuracy is in `docs/your-data.md`.

Licences and credits are those of the pictures: `../emoji/README.md`.
"""


def regrouped(rows: list[dict]) -> list[dict]:
    """Return identities with `class` of the second set, sorted by it, then identity.

    ValueError if a class names what is not among the rows, or two name the same.
    """
    by_label = {row["name"]: row for row in rows}
    found, taken = [], {}
    for name, labels in _CLASSES.items():
        for label in map(str.strip, labels.split(";")):
            if label not in by_label or label in taken:
                fault = f"also in {taken[label]!r}" if label in taken else "no emoji of the dataset"
                raise ValueError(f"{label!r} of class {name!r} is {fault}")
            taken[label] = name
            found.append({**by_label[label], "class": name})
    return sorted(found, key=lambda row: (NAMES.index(row["class"]), row["identity"]))


def label_files(rows: list[dict]) -> dict[str, bytes]:
    """All files of the second set, by relative name, from the identities of the first."""
    everything, rows = len(rows), regrouped(rows)
    counts = Counter((row["class"], row["split"]) for row in rows)
    per_class = [[counts[name, split] for split in SPLITS] for name in NAMES]
    lines = [
        [number, name, *numbers, sum(numbers)]
        for number, (name, numbers) in enumerate(zip(NAMES, per_class, strict=True))
    ]
    totals = [sum(column) for column in zip(*per_class, strict=True)]
    lines.append(["", "all", *totals, sum(totals)])
    card = _TEXT.format(
        classes=len(NAMES),
        all=everything,
        identities=len(rows),
        images=f"{len(rows) * len(DOMAINS):,}",
        table=table(["label", "class", *SPLITS, "all"], lines),
        small="; ".join(
            f"{n} ({c[0]})" for n, c in zip(NAMES, per_class, strict=True) if c[0] < 16
        ),
    )
    labels = "".join(f'{row["identity"]},"{row["class"]}"\n' for row in rows)
    return {
        "README.md": card.encode(),
        "classes.txt": "".join(f"{name}\n" for name in NAMES).encode(),
        "labels.csv": f"identity,class\n{labels}".encode(),
    }
