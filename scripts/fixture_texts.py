"""The words of the fixture documents (CC0, everything invented); make_fixtures.py sets them."""

from __future__ import annotations

from typing import Any

MANUAL: dict[str, Any] = {
    "title": "Kestrel 4 Weather Station",
    "subtitle": "Operating manual. Third edition, for stations with firmware 2.6 and later.\n"
    "Please read section 1 before you unpack the sensors.",
    "sections": {
        "Mounting the mast": [
            "Choose an open place, at least ten metres away from walls and trees. Wind that has "
            "passed a building is turbulent, and the anemometer will read too low.",
            "The mast stands in a concrete block of 40 by 40 centimetres. Let the concrete set "
            "for three days before you raise the mast. Use the spirit level in the lid of the "
            "tool box: a mast that leans by more than two degrees gives wrong rainfall.",
            "Tighten the three guy wires evenly, then fix them with the supplied shackles. Do not "
            "work on the mast during a thunderstorm. The earth cable must be connected to the "
            "copper rod before the sensors are plugged in.",
            "The box contains: mast in two parts, sensor head, rain gauge, solar panel, battery, "
            "data logger, three guy wires with shackles, tool box and this manual.",
        ],
        "Resetting the rain gauge": [
            "The rain gauge counts the tips of a small bucket. Each tip stands for 0.2 millimetres "
            "of rain. Leaves and insects can block the funnel; clean it every spring.",
            "To set the counter back to zero: lift the funnel, press the green button for five "
            "seconds, and wait until the lamp flashes twice. The total of the year is kept.",
            "To calibrate the gauge, pour exactly 100 millilitres of water slowly through the "
            "funnel. The logger must show between 24 and 26 tips. If it shows fewer, turn both "
            "adjusting screws half a turn outwards and repeat the measurement.",
            "In frost the bucket freezes. Take the gauge indoors, or order the heating ring "
            "(part number KH-31), which needs an external supply.",
        ],
        "Battery and solar panel": [
            "The solar panel charges a sealed battery of 12 volts and 7 ampere hours. Without any "
            "sun a full battery lasts for nineteen days.",
            "Point the panel to the south (to the north in the southern hemisphere) and tilt it "
            "by your latitude plus fifteen degrees, so that the low winter sun counts most. Wipe "
            "off dust twice a year with a wet cloth; do not use solvents.",
            "Replace the battery when its voltage at rest falls below 11.8 volts, usually after "
            "four years. Disconnect the panel first, then the red cable, then the black one. Used "
            "batteries contain lead and belong to a collection point, not in the household waste.",
        ],
        "Reading the data logger": [
            "Connect the logger to a computer with the USB cable. It appears as a drive with one "
            "file for each month, in comma separated form. Times are in UTC and never jump to "
            "daylight saving time.",
            "Each line holds: time, air temperature, humidity, pressure, wind speed, wind "
            "direction, rainfall. A missing value is written as an empty field, not as zero.",
            "The memory holds four years of ten-minute means. When it is full, the oldest month "
            "is overwritten. Copy the files once a year.",
            "The radio link reaches 300 metres in the open. Pair a display by holding its MODE "
            "key until the word LINK appears.",
        ],
        "Fault codes": [
            "The display shows a letter and two digits when something is wrong. Note the code "
            "before you switch the station off.",
            [
                ["Code", "Meaning", "What to do"],
                ["E04", "Sensor head not found", "Check the plug below the mast cap"],
                ["E11", "Anemometer stuck", "Remove ice or spider webs from the cups"],
                ["E17", "Clock lost", "Replace the coin cell CR2032 and set the time"],
                ["E23", "Battery voltage low", "Clean the solar panel, then see section 3"],
                ["E30", "Memory worn out", "Send the logger in for service"],
            ],
            "Service: Kestrel Instruments, 14 Foundry Lane, Aldermoor. The guarantee covers "
            "faults of material for five years; lightning and animals are excluded.",
        ],
    },
}

GULLS: dict[str, Any] = {
    "title": "Counting gulls in the dark: acoustic census of a kittiwake colony",
    "authors": "M. Okafor, L. Brandt and S. Ivarsdottir, Brannock Island Field Station",
    "figure": {
        "5 May": 41,
        "19 May": 66,
        "2 June": 88,
        "16 June": 97,
        "30 June": 93,
        "14 July": 118,
    },
    "caption": "Figure 1. Detected calls in a minute, mean of twelve recorders, between midnight "
    "and sunrise. The last bar contains the begging of chicks.",
    "pages": [
        {
            "Abstract": [
                "Seabird colonies are usually counted by eye from a boat, in daylight and good "
                "weather. We placed twelve microphones on a cliff of Brannock Island and estimated "
                "the number of breeding kittiwakes from their calls at night. The acoustic "
                "estimate of 2,140 pairs differs from the photographic count by four percent. The "
                "method costs a fifth of a boat survey and can be repeated every night."
            ],
            "1 Introduction": [
                "Kittiwake numbers in the north Atlantic have halved since 1990, and managers need "
                "counts more often than once in five years. Boats are expensive, fog is frequent, "
                "and a visit disturbs the birds. A count that fails because of swell is lost for "
                "the whole season, since adults leave the ledges by the middle of August.",
                "Passive acoustic monitoring has been used for petrels, which call from burrows, "
                "but rarely for cliff nesting gulls, because many voices overlap (Halloran and "
                "Reyes 2017). We show that overlap is not an obstacle when call rates rather than "
                "single birds are modelled (Adeyemi 2019).",
                "We ask three questions. Does the call rate at night follow the number of occupied "
                "nests? How many recorders does a cliff of 600 metres need? And in which week of "
                "the season should they be put out?",
                "Brannock Island lies eleven kilometres off the coast and has no trees, no roads "
                "and, since the rats were removed in 2009, no ground predators. Its kittiwakes "
                "nest on the northern cliff between fulmars and guillemots.",
            ],
        },
        {
            "2 Methods": [
                "Recorders. Twelve recorders were fixed with climbing bolts at heights of 20 to 65 "
                "metres. Each took one minute in every ten from 1 May to 31 July, sampled at 32 "
                "kilohertz. Wind noise was removed with a high pass filter at 400 hertz, and "
                "minutes with a wind above eleven metres per second were left out.",
                "Detection. Calls were detected by template matching with forty templates from "
                "Ivarsdottir (2024). Two observers listened to 600 random minutes; their "
                "agreement, Cohen's kappa, was 0.87. Detection probability fell with distance and "
                "reached one half at 48 metres, less in rain.",
                "From calls to pairs. The call rate was converted to pairs through nineteen nests "
                "that were filmed for eleven nights with infrared cameras (Brandt 2022). A filmed "
                "pair called 5.3 times an hour. Pairs with eggs called less than pairs with "
                "chicks, so the factor was estimated for each week.",
                "Model. The number of pairs was estimated with a negative binomial regression in "
                "which height, distance to the sea and exposure to the swell entered as "
                "covariates. Intervals come from two thousand bootstrap samples over nights.",
                "Control. On 12 June the cliff was photographed from a drone at a distance of 80 "
                "metres. Two people counted occupied nests on the prints without knowing the "
                "acoustic result.",
            ],
        },
        {
            "3 Results": [
                "We obtained 148,000 usable minutes and 3.1 million calls. Activity was highest "
                "from two hours before sunrise until dawn and dropped sharply when a peregrine "
                "falcon was present. Figure 1 shows the course of the season.",
                "The estimate for the whole cliff was 2,140 pairs, with a 95 percent interval from "
                "1,960 to 2,330. The drone photographs showed 2,229 occupied nests. With eight "
                "recorders the interval grew by a fifth, with only four it doubled.",
                "The second and third week of June gave the steadiest call rates. In May the rate "
                "followed the arrival of the birds; in late July it rose again with the begging "
                "of the chicks.",
                "Moonlight lowered the number of calls by twelve percent. Rain had no effect on "
                "the birds, only on the range of the microphones.",
            ],
        },
        {
            "4 Discussion": [
                "Counting by ear works at night and in fog, when the eye fails. The main weakness "
                "is the conversion factor: pairs may call more often in a year of little food. We "
                "therefore advise filming at least fifteen nests in every year.",
                "Equipment for one season cost 3,900 euros, compared with 19,000 euros for three "
                "boat surveys. Batteries were changed once. Two recorders were lost to falling "
                "rock.",
                "The recorders also logged storm petrels and a colony of grey seals, so that the "
                "same recordings can serve other studies.",
                "Acknowledgements. We thank the lighthouse keepers for tea and for the use of "
                "their winch. All fieldwork was done under permit BI-2025-08.",
            ],
            "References": [
                "Adeyemi, T. (2019). Overlapping voices: statistics of choruses. Journal of Field "
                "Acoustics 12, 44-61.",
                "Brandt, L. (2022). Infrared filming of cliff nests. Northern Ornithology 8, "
                "101-115.",
                "Halloran, P. and Reyes, C. (2017). Burrow nesting petrels and their nightly "
                "calls. Island Studies 3, 9-27.",
                "Ivarsdottir, S. (2024). Template matching for gull calls in wind. Methods in "
                "Monitoring 5, 230-248.",
                "Okafor, M. (2021). A short history of the boat survey. Sea and Shore 40, 1-19.",
            ],
        },
    ],
}

LIBRARY: dict[str, Any] = {
    "title": "Harbour Library: the year 2025",
    "slides": {
        "Harbour Library": ["Annual report 2025", "Presented to the town council, 9 February"],
        "Visitors and loans": [
            "71,400 visits, up by nine percent",
            "Loans of audio books doubled",
            "Busiest hour: Saturday at eleven",
        ],
        "What visitors came for": [
            "Asked on six days in October, 812 answers",
        ],
        "Leaking roof": [
            "Water entered the map room on 3 November",
            "Forty sea charts are being dried and restored",
            "New copper roof: 186,000 crowns, from the reserve fund",
        ],
        "Plans for 2026": [
            "Open on Sundays from Easter onwards",
            "A sewing machine to borrow by the hour",
            "Homework club with the secondary school",
        ],
    },
    "bars": {
        "What visitors came for": {"Books": 46, "Study": 29, "Internet": 14, "Events": 11},
    },
}

INVOICE: dict[str, Any] = {
    "title": "Invoice 2026-0417",
    "blocks": [
        "Lindqvist & Daughters, Boatbuilders\nSlipway 3, 4410 Norrhaven\nVAT number NV 556 201 88",
        "To: Mrs Amara Castellanos\n27 Lantern Street\n4402 Norrhaven",
        "Date: 17 April 2026\nPayable by: 17 May 2026\nBoat: dinghy Petrel, hull number 0932",
    ],
    "table": [
        ["Work", "Quantity", "Price", "Amount"],
        ["Replace two oak planks, starboard", "2", "340.00", "680.00"],
        ["Caulking with cotton and putty, metres", "14", "12.50", "175.00"],
        ["Varnish, three coats", "1", "265.00", "265.00"],
        ["New rudder pintles, bronze", "2", "58.00", "116.00"],
        ["Crane and storage, days", "6", "22.00", "132.00"],
        ["Total without tax", "", "", "1,368.00"],
        ["Value added tax, 25 percent", "", "", "342.00"],
        ["Total in crowns", "", "", "1,710.00"],
    ],
    "footer": "Please pay to Norrhaven Savings Bank, account 7733 0192 45. We charge interest of "
    "eight percent a year on late payments. Thank you for your order.",
}

LETTER = [
    "Allotment Society Greenbank",
    "12 March 2026",
    "Dear Mr Petrov,",
    "the water meter of your garden, plot 58, must be read before the end of the month. Our "
    "warden could not enter because the gate was locked on both visits.",
    "Please leave the key with Mrs Doyle in plot 61, or send us a photograph of the meter. "
    "Without a reading we have to estimate forty cubic metres.",
    "May we also remind you that hedges may not be higher than one metre and twenty "
    "centimetres, and that the spring cleaning of the ditches takes place on Saturday, 28 March, "
    "at nine o'clock. Bring a spade and rubber boots. There will be pea soup.",
    "With kind regards",
    "Hilde Aronsen, treasurer",
]

NOTICE = [
    ("SWIMMING POOL CLOSED", 46),
    ("Monday 6 to Friday 17 July", 34),
    ("The tiles of the children's pool are being", 28),
    ("repaired and the water is being changed.", 28),
    ("Season tickets are extended by two weeks.", 28),
    ("The sauna and the cafe stay open as usual.", 28),
    ("Lost property: ask at the ticket desk.", 28),
]

BREAD = """Sourdough for a cold kitchen

The starter. Mix 50 grams of whole rye flour with 50 grams of warm water in a tall jar and leave \
it on top of the refrigerator. Every morning throw away half and feed it with the same amounts. \
After five to seven days it doubles within four hours and smells of yoghurt and apples. If it \
smells of nail varnish it is hungry: feed it twice a day.

The dough. In the evening stir 100 grams of starter into 350 grams of water, add 500 grams of \
strong wheat flour, and wait for half an hour before you add 10 grams of salt. Salt that goes in \
too early slows the dough. Fold the dough four times, every thirty minutes, with wet hands.

The long wait. At eighteen degrees the dough needs about ten hours. It is ready when it has grown \
by half and shakes like a pudding. In summer put it into the cellar, or it turns sour and flat.

Baking. Heat a cast iron pot in the oven at 240 degrees for forty minutes. Tip the loaf in, cut it \
once with a razor blade, put the lid on and bake for twenty-five minutes; take the lid off, lower \
the heat to 210 degrees and bake for another twenty. The loaf is done when it sounds hollow.

Keeping. Stand the bread on its cut face on a wooden board. It stays good for five days. Slices \
can be frozen and go straight into the toaster.
"""

ORCHARD = """# Orchard diary

## February: pruning the apple trees

Cut on a dry day without frost. Take out dead wood first, then branches that cross or grow inwards.
A bird should be able to fly through the crown. Paint nothing on the wounds.

## April: frost at blossom time

On the 19th the thermometer fell to minus three. We lit forty candles between the pear trees at two
in the morning and lost only a tenth of the blossom. The plums in the hollow were not so lucky.

## June: codling moth

Pheromone traps caught nine moths a week in the lower rows. Corrugated cardboard around the trunks
catches the caterpillars; burn it in September.

## October: cider

From 420 kilograms of Bramley and Cox we pressed 260 litres. Original gravity 1.052. Wild yeast, no
sugar, two rackings, bottled in May.
"""

QUERIES: list[tuple[str, list[str]]] = [
    ("set the rain gauge counter back to zero", ["kestrel-manual.pdf#page=3"]),
    ("where to mount the mast", ["kestrel-manual.pdf#page=2"]),
    ("replace the battery of the weather station", ["kestrel-manual.pdf#page=4"]),
    ("file format of the data logger", ["kestrel-manual.pdf#page=5"]),
    ("fault code E17 clock lost", ["kestrel-manual.pdf#page=6"]),
    ("climbing bolts and high pass filter", ["gull-calls.pdf#page=2"]),
    ("peregrine falcon and moonlight", ["gull-calls.pdf#page=3"]),
    ("lighthouse keepers and their winch", ["gull-calls.pdf#page=4"]),
    ("leaking roof of the library", ["harbour-library.pdf#page=4"]),
    ("open on Sundays homework club", ["harbour-library.pdf#page=5"]),
    ("varnish and oak planks for a dinghy", ["invoice-0417.pdf#page=1"]),
    ("water meter of plot 58", ["letter-scan.pdf#page=1"]),
    ("swimming pool closed in July", ["pictures/notice.png"]),
    ("sourdough starter with rye flour", ["bread.txt"]),
    ("codling moth traps", ["orchard.md"]),
]
