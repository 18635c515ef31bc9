"""What icon sets call pictures of dataset identities, beyond their names and WordNet's synonyms.

Found by reading the most frequent captions that survived the filter by names. An entry counts
only while its identity is held out, and never takes away the name of a training identity; with
another split of the dataset the list has to be gone through again.
"""

from __future__ import annotations

# Identity label -> further aliases separated by semicolons.
PICTURED_AS = {
    "airplane": "plane; flight; jet; aircraft; airport; airline",
    "baby symbol": "baby; baby changing",
    "balance scale": "balance; justice; libra",
    "birthday cake": "cake; birthday",
    "books": "library; bookshelf",
    "bus": "coach; bus stop",
    "calendar": "schedule",
    "camera": "photography; photo camera; selfie",
    "camping": "tent camping; campsite; campground",
    "cocktail glass": "martini",
    "convenience store": "storefront; store",
    "delivery truck": "lorry; delivery; shipping",
    "desktop computer": "monitor; pc; imac; workstation",
    "disguised face": "incognito",
    "electric plug": "plug",
    "factory": "industry",
    "fire engine": "firetruck",
    "fishing pole": "fishing",
    "graduation cap": "graduation; graduate; mortarboard; education; academic cap",
    "green salad": "salad",
    "headphone": "headset; earphone; earbud",
    "hospital": "clinic",
    "kiwi fruit": "kiwi",
    "man biking": "cycling; cyclist; biker",
    "man cook": "chef",
    "man swimming": "swim; swimmer; swimming",
    "man surfing": "surf; surfer",
    "man walking": "walk; pedestrian; walker",
    "metro": "underground train; metro",
    "moon viewing ceremony": "moon viewing",
    "motor scooter": "scooter; vespa",
    "motorcycle": "motorbike; motorcyclist",
    "motorway": "highway; freeway; road",
    "mountain": "terrain; peak",
    "musical keyboard": "piano",
    "no smoking": "smoking; smoke free",
    "office building": "building; skyscraper",
    "page facing up": "page; file; document; doc; paper",
    "page with curl": "page; file; document; doc; paper",
    "palm tree": "palm",
    "person in steamy room": "sauna",
    "person with white cane": "blind",
    "ping pong": "table tennis; pingpong",
    "pool 8 ball": "billiard; snooker",
    "rabbit face": "bunny",
    "radioactive": "radiation; nuclear",
    "railway car": "railway",
    "receipt": "invoice; bill",
    "ringed planet": "planet; saturn",
    "scissors": "cut; cutting",
    "shield": "security; gpp; antivirus; protection",
    "skateboard": "skateboarding; skateboarder",
    "star": "favorite; favourite; rating; rate; grade; starred",
    "steaming bowl": "ramen; noodle",
    "sun": "brightness; sunlight; light mode; sunshine",
    "telephone": "call; calling",
    "tumbler glass": "whisky; whiskey",
    "warning": "caution; danger; alert triangle; exclamation triangle; error triangle",
    "wheelchair symbol": "accessible; accessibility; disability; handicapped",
    "wind face": "windy",
    "cloud with lightning and rain": "thunderstorm; thunder",
    "wine glass": "wine",
    "woman getting massage": "spa",
    "women\u2019s room": "restroom; wc; toilet",
    "men\u2019s room": "restroom; wc; toilet",
}


def pictured_as(label: str) -> list[str]:
    """Further aliases of an identity by its emoji label."""
    return [name.strip() for name in PICTURED_AS.get(label, "").split(";") if name.strip()]
