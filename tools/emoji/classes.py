"""Which emoji belong to which of the 28 classes.

A class is a set of Unicode subgroups (emojibase-data's keys, read from its messages file), minus
labels that do not show the class, plus labels from elsewhere that do. Labels are emojibase's
English labels. The order of ``CLASSES`` is the order of the integer labels.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassRule:
    """One class: its name, its Unicode subgroups, and the exceptions by emoji label."""

    name: str
    subgroups: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    add: tuple[str, ...] = ()


def _labels(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", " ").split(";") if part.strip())


CLASSES = (
    ClassRule(
        "facial expression",
        _labels(
            "face-smiling; face-affection; face-tongue; face-hand; face-neutral-skeptical;"
            "face-sleepy; face-unwell; face-hat; face-glasses; face-concerned; face-negative"
        ),
        drop=_labels("skull; skull and crossbones"),
    ),
    ClassRule(
        "hand gesture",
        _labels(
            "hand-fingers-open; hand-fingers-partial; hand-single-finger; hand-fingers-closed;hands"
        ),
        add=_labels("writing hand"),
    ),
    ClassRule("person", _labels("person; person-role; person-fantasy")),
    ClassRule("person in action", _labels("person-activity; person-sport; person-resting")),
    ClassRule("mammal", _labels("animal-mammal"), drop=_labels("paw prints; pig nose")),
    ClassRule("bird", _labels("animal-bird"), drop=_labels("feather; wing")),
    ClassRule("sea animal", _labels("animal-marine"), drop=_labels("spiral shell")),
    ClassRule("insect", _labels("animal-bug"), drop=_labels("spider web; microbe")),
    ClassRule("flower", _labels("plant-flower")),
    ClassRule(
        "tree or leaf",
        _labels("plant-other"),
        drop=_labels("empty nest; nest with eggs; mushroom"),
        add=_labels("Christmas tree; tanabata tree; pine decoration"),
    ),
    ClassRule("fruit", _labels("food-fruit")),
    ClassRule("vegetable", _labels("food-vegetable"), add=_labels("mushroom")),
    ClassRule(
        "dish of food",
        _labels("food-prepared; food-asian"),
        drop=_labels("butter; salt; canned food"),
    ),
    ClassRule("sweet dessert", _labels("food-sweet"), drop=_labels("honey pot")),
    ClassRule("drink", _labels("drink"), drop=_labels("ice; pouring liquid")),
    ClassRule(
        "building",
        _labels("place-building; place-religious"),
        drop=_labels("building construction; brick; rock; wood; Statue of Liberty"),
        add=_labels("circus tent"),
    ),
    ClassRule(
        "landscape",
        _labels("place-geographic"),
        add=_labels(
            "foggy; night with stars; cityscape; sunrise over mountains; sunrise;"
            "cityscape at dusk; sunset; bridge at night; water wave; moon viewing ceremony;"
            "motorway; railway track"
        ),
    ),
    ClassRule(
        "train",
        add=_labels(
            "locomotive; railway car; high-speed train; bullet train; train; metro; light rail;"
            "station; tram; monorail; mountain railway; tram car; suspension railway"
        ),
    ),
    ClassRule(
        "road vehicle",
        add=_labels(
            "bus; oncoming bus; trolleybus; minibus; ambulance; fire engine; police car;"
            "oncoming police car; taxi; oncoming taxi; automobile; oncoming automobile;"
            "sport utility vehicle; pickup truck; delivery truck; articulated lorry; tractor;"
            "racing car; motorcycle; motor scooter; auto rickshaw; bicycle; kick scooter"
        ),
    ),
    ClassRule(
        "aircraft or boat",
        _labels("transport-water"),
        drop=_labels("anchor; ring buoy"),
        add=_labels(
            "airplane; small airplane; airplane departure; airplane arrival; parachute;"
            "helicopter; satellite; rocket; flying saucer"
        ),
    ),
    ClassRule(
        "moon, sun or weather",
        _labels("sky-weather"),
        drop=_labels(
            "thermometer; closed umbrella; umbrella; umbrella with rain drops;"
            "umbrella on ground; high voltage; fire; droplet; water wave"
        ),
    ),
    ClassRule(
        "sports equipment",
        _labels("sport"),
        drop=_labels("martial arts uniform; running shirt; flag in hole"),
        add=_labels("skateboard; roller skate; pool 8 ball"),
    ),
    ClassRule(
        "clothing",
        _labels("clothing"),
        drop=_labels(
            "folding hand fan; purse; handbag; clutch bag; shopping bags; backpack; hair pick;"
            "prayer beads; lipstick; ring; gem stone"
        ),
        add=_labels("martial arts uniform; running shirt"),
    ),
    ClassRule(
        "musical instrument", _labels("musical-instrument"), add=_labels("postal horn; bell")
    ),
    ClassRule(
        "electronic device",
        _labels("phone"),
        add=_labels(
            "battery; low battery; electric plug; laptop; desktop computer; printer; keyboard;"
            "computer mouse; trackball; movie camera; film projector; television; camera;"
            "camera with flash; video camera; flashlight; studio microphone; microphone;"
            "headphone; radio; video game; joystick"
        ),
    ),
    ClassRule(
        "book, paper or mail",
        _labels("book-paper; mail"),
        drop=_labels("label; outbox tray; inbox tray; ballot box with ballot"),
        add=_labels(
            "love letter; memo; spiral notepad; spiral calendar; calendar; tear-off calendar;"
            "clipboard; receipt; card index"
        ),
    ),
    ClassRule(
        "tool or weapon",
        _labels("tool"),
        drop=_labels("white cane; chains; link"),
        add=_labels(
            "kitchen knife; water pistol; scissors; plunger; broom; razor; straight ruler;"
            "triangular ruler; sewing needle; safety pin; mouse trap; fire extinguisher;"
            "microscope; telescope; stethoscope; syringe"
        ),
    ),
    ClassRule(
        "road or warning sign",
        _labels("transport-sign; warning"),
        add=_labels(
            "stop sign; construction; bus stop; horizontal traffic light; vertical traffic light"
        ),
    ),
)
CLASS_NAMES = tuple(rule.name for rule in CLASSES)

# Variants of one drawing that an image distance does not always catch: the same person with
# another gender or age, the same object seen from another side or in another state.
_NAME_NOISE = re.compile(
    r"\b(man|men|woman|women|person|people|boy|girl|child|baby|older|old|adult|male|female"
    r"|prince|princess|king|queen|mrs|mx|santa|merman|mermaid|merperson"
    r"|oncoming|waxing|waning|gibbous|quarter|first|last|full|new|crescent"
    r"|left|right|up|down|leftwards|rightwards|left-facing|right-facing|low|raised|lowered"
    r"|open|closed|s|in|with|of|the|getting|playing)\b"
)
# Families that the rule above does not find; one per line.
_FAMILIES = """
    person with crown; prince; princess
    merperson; merman; mermaid
    Santa Claus; Mrs. Claus; Mx Claus
    closed book; green book; blue book; orange book
    closed mailbox with raised flag; closed mailbox with lowered flag;
        open mailbox with raised flag; open mailbox with lowered flag
    envelope; e-mail; incoming envelope; envelope with arrow; love letter
    calendar; tear-off calendar; spiral calendar
    page with curl; page facing up
    camera; camera with flash
    battery; low battery
    mobile phone; mobile phone with arrow
    airplane departure; airplane arrival
    cloud with rain; cloud with snow; cloud with lightning; cloud with lightning and rain
    sun behind cloud; sun behind small cloud; sun behind large cloud; sun behind rain cloud
    red apple; green apple
    dog; guide dog; service dog
    cat; black cat
    bird; black bird
    bear; polar bear
    camel; two-hump camel
"""
_NAME_KEYS = {
    label: f"family of {family[0]}"
    for family in map(_labels, _FAMILIES.replace(";\n", ";").strip().splitlines())
    for label in family
}
_NAME_CLASSES = {
    "person",
    "person in action",
    "hand gesture",
    "moon, sun or weather",
    "road vehicle",
}


def name_key(label: str, class_name: str) -> str | None:
    """The group that a label belongs to by its name alone, or None where names say nothing."""
    if label in _NAME_KEYS:
        return _NAME_KEYS[label]
    if class_name not in _NAME_CLASSES:
        return None
    words = _NAME_NOISE.sub(" ", label.lower().replace("’", " ").split(":")[0])
    words = re.sub(r"[^a-z0-9]+", " ", words).strip()
    return f"{class_name}/{words}" if words else f"{class_name}/{label.lower()}"


def slug(label: str) -> str:
    """``red apple`` -> ``red_apple``: lower case ASCII letters, digits and underscores."""
    plain = label.replace("ñ", "n").replace("’", "").lower()
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def assign_classes(emojis: list[dict], subgroup_keys: dict[int, list[str]]) -> dict[str, str]:
    """Map hexcode to class name for every emoji that a rule takes.

    Args:
      emojis: emojibase-data's list (``label``, ``hexcode``, ``subgroup``).
      subgroup_keys: names of each subgroup number.

    Raises:
      ValueError: if a rule names a label or a subgroup that the data does not have, or if two
        rules take the same emoji.
    """
    by_label = {entry["label"]: entry["hexcode"] for entry in emojis}
    known_subgroups = {key for keys in subgroup_keys.values() for key in keys}
    result: dict[str, str] = {}
    for rule in CLASSES:
        unknown = [label for label in rule.drop + rule.add if label not in by_label]
        unknown += [key for key in rule.subgroups if key not in known_subgroups]
        if unknown:
            raise ValueError(f"class {rule.name!r} names what emojibase-data lacks: {unknown}")
        codes = [by_label[label] for label in rule.add]
        for entry in emojis:
            keys = subgroup_keys.get(entry.get("subgroup", -1), [])
            if entry["label"] not in rule.drop and any(key in rule.subgroups for key in keys):
                codes.append(entry["hexcode"])
        for code in dict.fromkeys(codes):
            if code in result:
                raise ValueError(f"{code} is in both {result[code]!r} and {rule.name!r}")
            result[code] = rule.name
    return result
