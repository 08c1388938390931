"""Collect the photographs that the demo VAE is trained and measured on.

Nothing is scraped: every photograph comes inside a package that Debian 12 or PyPI distributes (desktop
wallpapers, the pictures of an educational game, the sample data of two Python libraries), under a licence
that allows redistribution and modification. `PHOTOS` below names each one with its licence and author, and
fixes the split: no photographer of a held-out photograph has a photograph in the training set.

    python tools/collect_photos.py --out photos --work /tmp/photo-packages

Needs Debian (`apt-get download`, `dpkg -x`) and pip; installs nothing. Writes `OUT/train/`, `OUT/heldout/`
(files as they were packaged: JPEG, PNG or WebP) and `OUT/CREDITS.tsv`. See docs/demo-vae.md.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WALLPAPERS = "usr/share/wallpapers"
MATE = "usr/share/backgrounds/mate/nature"
BACKGROUNDS = "usr/share/backgrounds"
LXQT = "usr/share/lxqt/wallpapers"
PALAPELI = "usr/share/palapeli/collection"
WESNOTH = "usr/share/games/wesnoth/1.16/data"
GCOMPRIS = "usr/share/gcompris-qt/rcc"

SPLITS = ("train", "heldout", "color-tune", "color-test")
"""The demo VAE is trained on the first and measured on the second; the colour room is tuned on the first and third and
measured on the fourth, and on the second, which its earlier versions were measured on."""

SOURCES = {
    # package: (kind, folder inside the package, where the licences are written)
    "mate-backgrounds": ("deb", MATE, "debian/copyright, per file"),
    "plasma-workspace-wallpapers": ("deb", WALLPAPERS, "metadata.json beside each picture"),
    "lomiri-wallpapers-16.04": ("deb", BACKGROUNDS, "debian/copyright, per file"),
    "lomiri-wallpapers-20.04": ("deb", BACKGROUNDS, "debian/copyright, per file"),
    "lxqt-themes": ("deb", LXQT, "License in the wallpapers' folder"),
    "palapeli-data": ("deb", PALAPELI, ".desktop file beside each picture"),
    "wesnoth-1.16-data": ("deb", f"{WESNOTH}/core/images/story", "debian/copyright"),
    "wesnoth-1.16-did": ("deb", f"{WESNOTH}/campaigns/Descent_Into_Darkness/images/story", "debian/copyright"),
    "wesnoth-1.16-httt": ("deb", f"{WESNOTH}/campaigns/Heir_To_The_Throne/images/story", "debian/copyright"),
    "wesnoth-1.16-l": ("deb", f"{WESNOTH}/campaigns/Liberty/images/story", "debian/copyright"),
    "wesnoth-1.16-trow": ("deb", f"{WESNOTH}/campaigns/The_Rise_Of_Wesnoth/images/story", "debian/copyright"),
    "wesnoth-1.16-ttb": ("deb", f"{WESNOTH}/campaigns/Two_Brothers/images/story", "debian/copyright"),
    "gcompris-qt-data": ("rcc", GCOMPRIS, "README inside each resource file, or debian/copyright, per picture"),
    "scikit-image==0.17.2": ("wheel", "skimage/data", "docstrings of skimage.data"),
    "scikit-learn": ("wheel", "sklearn/datasets/images", "README.txt beside the pictures"),
}

# One photograph a line: path in the package's folder | split | licence | author. `# name` starts a package.
PHOTOS = """
# mate-backgrounds
Aqua.jpg|train|GPL-2.0-or-later|Charles Barbin
Blinds.jpg|train|GPL-2.0-or-later|Lennart Poettering, Andrea Cimitan
Dune.jpg|train|GPL-2.0-or-later|Marco Cogoni, Hylke Bons
FreshFlower.jpg|train|GPL-2.0-or-later|Jens Ansorg
Garden.jpg|train|GPL-2.0-or-later|Charles Barbin
GreenMeadow.jpg|train|GPL-2.0-or-later|Timothy Schellhase, Lapo Calamandrei
LadyBird.jpg|train|GPL-2.0-or-later|Charles Barbin
RainDrops.jpg|train|GPL-2.0-or-later|blackcombwhistler07
Storm.jpg|train|GPL-2.0-or-later|Sergey Nazarov
TwoWings.jpg|train|GPL-2.0-or-later|Charles Barbin, Hylke Bons
Wood.jpg|train|GPL-2.0-or-later|Jean-François Fortin Tam
YellowFlower.jpg|train|GPL-2.0-or-later|Charles Barbin
# plasma-workspace-wallpapers
BytheWater/contents/images/2560x1600.jpg|train|LGPL-3.0|Maciej Wiklo
ColdRipple/contents/images/2560x1600.jpg|train|LGPL-3.0|Risto Saukonpää
ColorfulCups/contents/images/2560x1600.jpg|train|LGPL-3.0|Dmitri Popov
DarkestHour/contents/images/2560x1600.jpg|train|LGPL-3.0|Risto Saukonpää
EveningGlow/contents/images/2560x1600.jpg|train|LGPL-3.0|Ian Hex
FallenLeaf/contents/images/2560x1600.jpg|train|LGPL-3.0|Martin Klapetek
Grey/contents/images/2560x1600.jpg|train|LGPL-3.0|Sigi Sagi
Kite/contents/images/2560x1600.jpg|train|LGPL-3.0|Risto Saukonpää
OneStandsOut/contents/images/2560x1600.jpg|train|LGPL-3.0|Risto Saukonpää
Path/contents/images/2560x1600.jpg|train|LGPL-3.0|Risto Saukonpää
summer_1am/contents/images/2560x1600.jpg|train|LGPL-3.0|Risto Saukonpää
# lomiri-wallpapers-16.04
Bridge_by_Sander_Klootwijk.jpg|heldout|CC-BY-SA-4.0|Sander Klootwijk
Dragonfly_by_Bolly.jpg|heldout|CC-BY-SA-4.0|Bolly
Picture_0B_by_freespace.jpg|heldout|CC-BY-4.0|Trevor "Freespace"
Picture_1A_by_freespace.jpg|heldout|CC-BY-4.0|Trevor "Freespace"
Wine_by_Jakkub_Mede.jpg|heldout|CC-BY-4.0|Jakub Mede
aitzgorri_by_Aitzol_Berasategi.jpg|heldout|CC-BY-4.0|Aitzol Berasategi
free_by_Peter_Nerlich.jpg|train|CC-BY-SA-4.0|Peter Nerlich
friends_by_Aitzol_Berasategi.jpg|heldout|CC-BY-4.0|Aitzol Berasategi
greentock_by_Peter_Nerlich.jpg|train|CC-BY-SA-4.0|Peter Nerlich
life_by_Aitzol_Berasategi.jpg|heldout|CC-BY-4.0|Aitzol Berasategi
picosdeeuropa_by_Aitzol_Berasategi.jpg|heldout|CC-BY-4.0|Aitzol Berasategi
seeding_by_Clements_Engelhardt.jpg|heldout|CC0-1.0|Clemens Engelhardt
sunset_by_Aitzol_Berasategi.jpg|heldout|CC-BY-4.0|Aitzol Berasategi
# lomiri-wallpapers-20.04
Kleiber_by_Lukas_Baubkus.jpg|heldout|CC-BY-SA-3.0|Lukas Baubkus
# lxqt-themes
Butterfly-Kenneth-Wimer.jpg|train|CC-BY-SA-3.0|Kenneth Wimer, LXQt project team
Valendas.png|train|CC-BY-SA-3.0|LXQt project team
after-the-rain.jpg|train|CC-BY-SA-3.0|stefonarch, LXQt project team
appleflower.png|train|CC-BY-SA-3.0|stefonarch, LXQt project team
beam.png|train|CC-BY-SA-3.0|stefonarch, LXQt project team
butterfly.png|train|CC-BY-SA-3.0|stefonarch, LXQt project team
cloud.png|train|CC-BY-SA-3.0|LXQt project team
drop.png|train|CC-BY-SA-3.0|stefonarch, LXQt project team
flowers.png|train|CC-BY-SA-3.0|stefonarch, LXQt project team
fog.jpg|train|CC-BY-SA-3.0|stefonarch, LXQt project team
this-is-not-windows.jpg|train|CC-BY-SA-3.0|stefonarch, LXQt project team
# palapeli-data
cincinnati-bridge.jpg|train|public domain|Derek Jensen
citrus-fruits.jpg|train|public domain|US Department of Agriculture
european-honey-bee.jpg|train|public domain|John Severns
# scikit-image==0.17.2
astronaut.png|heldout|public domain|NASA
chelsea.png|heldout|CC0-1.0|Stefan van der Walt
coffee.png|heldout|CC0-1.0|Rachel Michetti
rocket.jpg|train|public domain|SpaceX
# scikit-learn
china.jpg|train|CC-BY-2.0|danielbuechele
flower.jpg|train|CC-BY-2.0|vultilion
# wesnoth-1.16-data
landscape-battlefield.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-bridge.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-bridge_sun.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-castle.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-coast.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-hills-01.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-hills-02.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-mountains-01.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-mountains-02.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-mountains-03.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-mountains-04.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-mountains-05.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
landscape-plain.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
swamp-01.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
swamp-02.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
swamp-03.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
# wesnoth-1.16-did
book.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
end.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
parthyn.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
travel.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
# wesnoth-1.16-httt
arrival_of_the_heir.png|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
httt_story1.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
httt_story2.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
httt_story3.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
httt_story4.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
httt_story5.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
httt_story6.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
httt_story7.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
httt_story8.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
# wesnoth-1.16-l
Halstead.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
frontier.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
island.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
return_to_Dallben_and_Delwyn.jpg|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
# wesnoth-1.16-trow
trow_intro_01.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_intro_02.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_intro_03.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_intro_04.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_intro_05.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_intro_06.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_intro_07.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_intro_08.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_intro_09.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_intro_10.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_story_01-A_Summer_of_Storms.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_story_02-The_Fall.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_story_03-A_Harrowing_Escape.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_story_04-Fall_of_Eldaric.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_story_04a-The_Swamp_of_Esten.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_story_04b-The_Midlands.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_story_06-Temple_in_the_Deep.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_story_13-Peoples_in_Decline.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
trow_story_15-A_New_Land.jpg|color-test|GPL-2.0-or-later|the artists of Battle for Wesnoth
# wesnoth-1.16-ttb
Two_Brothers_M1P1.png|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
Two_Brothers_M1P2.png|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
Two_Brothers_M2P1.png|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
Two_Brothers_M4P1_the_end.png|color-tune|GPL-2.0-or-later|the artists of Battle for Wesnoth
# gcompris-qt-data
erase/alpaca.webp|heldout|CC-BY-SA-4.0|Dietmar Rabich
erase/bee.webp|train|CC-BY-2.0|aussiegall
erase/butterfly.webp|train|CC-BY-SA-4.0|© 2014 Jee & Rani Nature Photography
erase/calf.webp|train|CC-BY-SA-4.0|Basile Morin
erase/camels.webp|train|CC-BY-SA-4.0|Alexandr frolov
erase/caterpillar.webp|train|CC-BY-SA-4.0|Ivar Leidus
erase/chamaeleon.webp|train|CC-BY-3.0|Benny Trapp
erase/cheetah.webp|train|CC-BY-SA-4.0|Charles J. Sharp
erase/crab.webp|heldout|CC0-1.0|Nosferattus
erase/dolphin.webp|train|CC-BY-SA-4.0|טל שמע
erase/flying_fox.webp|train|CC-BY-SA-4.0|Andrew Mercer
erase/gibbon.webp|train|CC-BY-3.0|JJ Harrison
erase/giraffe.webp|train|public domain|Sergio Cambelo
erase/goat.webp|train|CC-BY-SA-4.0|JoachimKohlerBremen
erase/gorilla.webp|train|CC-BY-SA-4.0|Charles J. Sharp
erase/gosling.webp|train|CC-BY-SA-4.0|Stephan Sprinz
erase/heron.webp|train|CC-BY-SA-4.0|Stephan Sprinz
erase/horse.webp|train|CC-BY-SA-4.0|Eatcha
erase/kingfisher.webp|heldout|CC0-1.0|Frank-2.0
erase/kitten.webp|heldout|CC-BY-2.0|GalgenTX
erase/long_nosed_monkey.webp|train|CC-BY-SA-4.0|Charles J. Sharp
erase/macaque.webp|train|CC-BY-SA-4.0|PJeganathan
erase/meerkats.webp|train|CC-BY-SA-4.0|Charles J. Sharp
erase/northern_harrier.webp|train|CC-BY-SA-4.0|Frank Schulenburg
erase/nubian_ibex.webp|train|CC-BY-SA-4.0|Rhododendrites
erase/penguin.webp|train|CC-BY-SA-4.0|Gordon Leggett
erase/pika.webp|train|public domain|NPS Climate Change Response
erase/red_panda.webp|heldout|CC0-1.0|Mathias Appel
erase/rhinoceros.webp|train|CC-BY-SA-4.0|Charles J. Sharp
erase/spoonbills.webp|train|CC-BY-SA-4.0|Ryzhkov Sergey
erase/squirrel.webp|heldout|CC-BY-SA-4.0|Роман Наумов
erase/swans.webp|train|CC-BY-SA-4.0|Charles J. Sharp
erase/toucan.webp|heldout|CC-BY-SA-4.0|LG Nyqvist
explore_monuments/bentPyramid.webp|train|public domain|Neithsabes
explore_monuments/greatPyramidOfGiza.webp|train|CC0-1.0|Gary Todd
explore_monuments/meidumPyramid.webp|train|public domain|Neithsabes
explore_monuments/redPyramid.webp|train|public domain|Chipdawes
explore_monuments/arlesAmphitheater.webp|train|public domain|(WT-fr) OT Arles
explore_monuments/chateaudeChambord.webp|train|public domain|BjörnT
explore_monuments/chateaudeChenonceau.webp|train|public domain|Alf van Beem
explore_monuments/citedeCarcassonne.webp|train|public domain|Petitemontagnedujura
explore_monuments/eiffelTower.webp|train|public domain|Tognopop
explore_monuments/montStMichel.webp|train|CC0-1.0|Ali Sabbagh
explore_monuments/palaisdesPapes.webp|train|CC0-1.0|Tognopop
explore_monuments/pontduGard.webp|train|public domain|Mimova
explore_monuments/reimsCathedral.webp|train|public domain|Mattana
explore_monuments/rocamadour.webp|train|public domain|François Darras
explore_monuments/aulaPalatina.webp|train|public domain|Berthold Werner
explore_monuments/berlinCathedral.webp|train|CC0-1.0|Gary Todd
explore_monuments/brandenburgGate.webp|train|public domain|Evans1551
explore_monuments/neuschwansteinCastle.webp|heldout|CC0-1.0|cameralends
explore_monuments/schwerinPalace.webp|train|CC0-1.0|Hermann Luyken
explore_monuments/trierImperialBaths.webp|train|public domain|Berthold Werner
explore_monuments/wormsCathedral.webp|train|public domain|Immanuel Giel
explore_monuments/ajantaCave.webp|train|public domain|Jonathanawhite
explore_monuments/charminar.webp|train|public domain|Goutamkhandelwal
explore_monuments/gatewayofIndia.webp|train|CC0-1.0|Simon Steinberger
explore_monuments/goldenTemple.webp|heldout|CC0-1.0|Jasdeep Singh
explore_monuments/greatStupa.webp|train|public domain|ArnoldBetten
explore_monuments/hawaMahal.webp|heldout|public domain|Janwiki
explore_monuments/konarkSunTemple.webp|train|public domain|Tetraktys
explore_monuments/mysorePalace.webp|train|public domain|Shiva sg
explore_monuments/qutubMinar.webp|train|CC0-1.0|pramadas
explore_monuments/rangGhar.webp|train|public domain|Porikolpok Oxom
explore_monuments/victoriaMemorial.webp|train|CC0-1.0|Anourag
explore_monuments/cabrillo.webp|train|CC0-1.0|allyndon
explore_monuments/canyondeChelly.webp|train|public domain|Nikater
explore_monuments/castillodeSanMarcos.webp|train|public domain|National Park Service
explore_monuments/fortSumter.webp|train|CC0-1.0|Gary Todd
explore_monuments/georgeWashingtonBirthplace.webp|train|public domain|National Park Service
explore_monuments/lincolnMemorial.webp|heldout|CC0-1.0|Brylie Christopher Oxley
explore_monuments/mountRushmore.webp|train|CC0-1.0|Eekim
explore_monuments/navajo.webp|train|public domain|Jon Sullivan
explore_monuments/statueofLiberty.webp|train|public domain|(WT-shared) Ypsilonatshared
explore_monuments/chichenItza.webp|train|CC-BY-SA-4.0|Daniel Schwen
explore_monuments/christTheRedeemer.webp|train|CC-BY-SA-4.0|Chensiyuan
explore_monuments/colosseum.webp|train|public domain|Urse Ovidiu
explore_monuments/greatWallofChina.webp|train|CC0-1.0|Nicolas Perrault III
explore_monuments/machuPicchu.webp|train|CC0-1.0|Guillaume Pascal
explore_monuments/petra.webp|train|public domain|Berthold Werner
explore_monuments/tajMahal.webp|train|CC-BY-SA-4.0|Yann
explore_world_animals/bison.webp|train|CC0-1.0|Kurt Kaiser
explore_world_animals/chameleon.webp|train|public domain|Nilesh1104
explore_world_animals/crocodile.webp|train|public domain|Djambalawa
explore_world_animals/dragon.webp|train|public domain|TimVickers
explore_world_animals/giraffe.webp|train|CC0-1.0|Mike and Lara Wolfe
explore_world_animals/hedgehog.webp|train|public domain|George Chernilevsky
explore_world_animals/jaguar.webp|train|CC0-1.0|Frieda Bredesen
explore_world_animals/kangaroo.webp|train|public domain|Vicki Nunn
explore_world_animals/koala.webp|train|public domain|BurningWell
explore_world_animals/lemur.webp|heldout|CC0-1.0|Mathias Appel
explore_world_animals/moose.webp|train|public domain|Ryan Hagerty
explore_world_animals/narwhal.webp|train|public domain|Dr Kristin Laidre
explore_world_animals/panda.webp|train|public domain|Jeff Kubina
explore_world_animals/polar_bear.webp|train|public domain|anonymous
explore_world_animals/scarlet_macaw.webp|train|CC0-1.0|Dcoetzee
explore_farm_animals/cat.webp|train|public domain|Loliloli
explore_farm_animals/chicken.webp|train|public domain|Tranquilles
explore_farm_animals/cow.webp|train|public domain|Dohduhdah
explore_farm_animals/dog.webp|train|public domain|Hans Kemperman
explore_farm_animals/duck.webp|train|CC0-1.0|Bernard Spragg
explore_farm_animals/horse.webp|train|CC0-1.0|Seth Zeigler
explore_farm_animals/owl.webp|heldout|CC0-1.0|Lepale
explore_farm_animals/pig.webp|train|public domain|Teinesavaii
explore_farm_animals/sheep.webp|train|CC0-1.0|Rob Mitchell
explore_world_music/africa.webp|train|public domain|Kenneth Ritchards
explore_world_music/america.webp|train|CC-BY-2.0|Tom Harpel
explore_world_music/australia.webp|train|CC-BY-2.0|Steve Evans
explore_world_music/ireland.webp|train|CC-BY-2.0|candyschwartz
explore_world_music/italy.webp|heldout|CC0-1.0|SoriamuséuM
explore_world_music/japan.webp|train|public domain|takami torao
explore_world_music/mexico.webp|heldout|CC0-1.0|Elidealista
explore_world_music/middleeast.webp|train|CC0-1.0|Metropolitan Museum of Art
explore_world_music/orchestra.webp|train|public domain|ABC Informática
categorization/IndiaGate.webp|color-tune|CC-BY-SA-3.0|Rdglobetrekker
categorization/arcDeTriomphe.webp|color-test|CC-BY-SA-2.0|Dan Mckay
categorization/baseball.webp|color-tune|public domain|Cody escadron delta
categorization/bayterek.webp|color-test|CC-BY-SA-2.0|Alastair Rae
categorization/bucket.webp|color-test|CC0-1.0|Daderot
categorization/bulb.webp|color-test|CC0-1.0|Vitaium
categorization/burj.webp|color-tune|CC-BY-SA-3.0|Imre Solt
categorization/cathedral.webp|color-test|CC-BY-SA-3.0|Yearofthedragon
categorization/chair.webp|color-test|public domain|Pierre Gencey
categorization/dam1.webp|color-test|CC-BY-SA-3.0|Elarbi alaeddin
categorization/dam2.webp|color-tune|public domain|László Szalai
categorization/dam3.webp|color-test|CC-BY-2.0|David Brodbeck
categorization/dam4.webp|color-tune|CC-BY-SA-3.0|Qurren
categorization/dam5.webp|color-test|CC-BY-SA-3.0|Shijualex
categorization/eiffelTower.webp|color-test|CC-BY-SA-3.0|Julie Anne Workman
categorization/empireState.webp|color-test|CC-BY-SA-3.0|Lolalatorre
categorization/fish1.webp|color-tune|public domain|Florin DUMITRESCU
categorization/fish10.webp|color-test|CC-BY-SA-3.0|BS Turner Hof
categorization/fish11.webp|color-tune|CC-BY-SA-3.0|Citron
categorization/fish12.webp|color-tune|CC-BY-SA-2.0|Jeff Kubina
categorization/fish13.webp|color-tune|CC-BY-SA-3.0|Jdiemer
categorization/fish14.webp|color-test|CC-BY-2.0|suneko
categorization/fish15.webp|color-tune|CC-BY-2.0|Ed Bierman
categorization/fish16.webp|color-test|CC-BY-SA-2.5|André Karwath
categorization/fish19.webp|color-test|CC-BY-SA-4.0|Hans Hillewaert
categorization/fish2.webp|color-test|public domain|Duane Raver
categorization/fish20.webp|color-test|CC-BY-SA-3.0|Luc Viatour
categorization/fish21.webp|color-test|CC-BY-SA-3.0|Terry Goss
categorization/fish22.webp|color-test|CC-BY-SA-3.0|Diliff
categorization/fish23.webp|color-test|public domain|Duane Raver
categorization/fish24.webp|color-test|public domain|Duane Raver
categorization/fish25.webp|color-test|public domain|Necrophorus
categorization/fish26.webp|color-test|CC-BY-2.0|Derek Keats
categorization/fish27.webp|color-tune|CC-BY-2.0|Philippe Guillaume
categorization/fish3.webp|color-test|CC-BY-2.0|Elma
categorization/fish4.webp|color-test|public domain|Hadal
categorization/fish5.webp|color-tune|public domain|Duane Raver, U.S. Fish and Wildlife Service
categorization/fish7.webp|color-test|CC-BY-SA-3.0|Jón Helgi Jónsson (Amything)
categorization/fish8.webp|color-test|public domain|Hartley, William W
categorization/fish9.webp|color-test|CC-BY-SA-3.0|Stan Shebs
categorization/greatWall.webp|color-tune|CC-BY-2.0|Hao Wei
categorization/hammer3.webp|color-tune|public domain|Evan-Amos
categorization/hammer4.webp|color-test|CC-BY-SA-3.0|Tjcase2
categorization/hammer5.webp|color-test|public domain|Dmitry G
categorization/igloo.webp|color-test|CC0-1.0|Estormiz
categorization/leMusee.webp|color-test|CC-BY-2.0|Jean-Pierre Dalbéra
categorization/leaningTowerOfPisa.webp|color-test|CC-BY-2.0|Dan Kamminga
categorization/monument1.webp|color-test|CC-BY-SA-4.0|Andrew Shiva
categorization/monument2.webp|color-tune|CC-BY-SA-3.0|Abdulhadi Najjar
categorization/monument3.webp|color-test|CC-BY-SA-3.0|Peter Haas
categorization/mountRushmore.webp|color-test|CC-BY-2.0|Dean Franklin
categorization/multimeter1.webp|color-tune|CC-BY-SA-3.0|Harke
categorization/multimeter2.webp|color-tune|public domain|Chabrez
categorization/nailCutter.webp|color-test|public domain|Tripy~commonswiki
categorization/operaHouse.webp|color-test|CC-BY-SA-3.0|Mfield
categorization/parthenon.webp|color-tune|CC-BY-SA-3.0|Harrieta
categorization/pillow.webp|color-tune|CC0-1.0|Choe Kwangmo
categorization/plier1.webp|color-test|public domain|Baran Ivo
categorization/scissors2.webp|color-test|CC-BY-1.0|Modeha
categorization/screwDriver.webp|color-test|public domain|Dmitry G
categorization/screwDriver1.webp|color-tune|CC-BY-SA-3.0|Rasbak
categorization/sickle.webp|color-tune|CC-BY-SA-4.0|Nikunjbhaldoi
categorization/sideCutter1.webp|color-test|public domain|M338
categorization/solar1.webp|color-test|CC-BY-2.0|Nadya Peek
categorization/solar2.webp|color-test|CC0-1.0|Fluffyarse
categorization/solar3.webp|color-test|CC-BY-2.0|Richard Gifford
categorization/solar4.webp|color-test|public domain|ENERGY.GOV
categorization/solar5.webp|color-tune|CC-BY-SA-4.0|Riosolar
categorization/solar6.webp|color-tune|CC-BY-SA-3.0|23x2
categorization/solar7.webp|color-tune|CC-BY-2.0|mattbuck
categorization/solar8.webp|color-tune|CC-BY-SA-3.0|KMJ
categorization/spoons.webp|color-tune|public domain|Wolfgangus Mozart
categorization/tajMahal.webp|color-tune|CC-BY-SA-4.0|Yann
categorization/tweezer.webp|color-test|CC-BY-SA-4.0|Swathysuren
categorization/usCapitol.webp|color-tune|CC-BY-SA-3.0|Martin Falbisoner
categorization/victoriaMemorial.webp|color-test|CC-BY-SA-4.0|Diego Delso
categorization/volleyball.webp|color-test|public domain|Amada44
categorization/weighingMachine.webp|color-tune|public domain|Karelj
categorization/windmill.webp|color-test|public domain|G-Man
categorization/windmill1.webp|color-test|CC-BY-SA-3.0|Lourdes Cardenal
categorization/windmill11.webp|color-tune|CC-BY-SA-2.0|Dirk Ingo Franke
categorization/windmill12.webp|color-test|CC-BY-2.0|Jean-Pol GRANDMONT
categorization/windmill13.webp|color-test|CC-BY-SA-3.0|Jean-Pol GRANDMONT
categorization/windmill15.webp|color-test|CC-BY-SA-3.0|Stan Shebs
categorization/windmill2.webp|color-test|CC-BY-SA-3.0|Hendrix
categorization/windmill3.webp|color-tune|CC-BY-SA-3.0|Joadl
categorization/windmill4.webp|color-test|CC-BY-SA-3.0|Alessio Sbarbaro
categorization/windmill5.webp|color-test|CC-BY-SA-3.0|Lion59
categorization/windmill7.webp|color-test|CC-BY-1.0|J.c.houd
categorization/windmill8.webp|color-tune|CC-BY-SA-4.0|PIERRE ANDRE LECLERCQ
categorization/windmill9.webp|color-test|CC-BY-SA-2.0|Wolfgang Staudt
categorization/wrench1.webp|color-tune|public domain|Dori
categorization/zimniPalace.webp|color-test|CC-BY-3.0|Dezidor
clickgame/sea1.webp|color-test|CC0-1.0|Ruthven
clickgame/sea2.webp|color-test|CC0-1.0|Ruthven
clickgame/sea3.webp|color-test|public domain|SolarSurfer
clickgame/sea4.webp|color-tune|public domain|Pseudopanax
clickgame/sea5.webp|color-test|public domain|Rita Segantini
clickgame/sea6.webp|color-test|public domain|U.S. Fish and Wildlife Service
details/Chenonceau_background.webp|color-test|CC-BY-SA-3.0|Ra-smit
details/EgeskovSlotSpejling_background.webp|color-tune|CC-BY-SA-3.0|Malene Thyssen
details/Eglise_dAuvers-sur-Oise_background.webp|color-tune|public domain|Vincent van Gogh
details/EilanDonanCastle_background.webp|color-tune|CC-BY-3.0|Guillaume Piolle
details/FanoeWindmill_background.webp|color-tune|CC-BY-SA-3.0|Cnyborg
details/GizahPyramids_background.webp|color-test|CC-BY-SA-2.0|Ricardo Liberato
details/Gogh4_background.webp|color-tune|public domain|Vincent van Gogh
details/Louvre_2007_02_24_c_background.webp|color-tune|CC-BY-SA-3.0|Benh LIEU SONG
details/NDP_background.webp|color-test|CC-BY-SA-3.0|Sanchezn
details/Nagoya_background.webp|color-tune|CC-BY-SA-3.0|Base64
details/Neuschwanstein_background.webp|color-tune|CC-BY-SA-3.0|Softeis
details/OperaSidney_background.webp|color-test|CC-BY-SA-3.0|David Iliff
details/PortraitOfPereTanguy_background.webp|color-tune|public domain|Vincent van Gogh
details/TajMahal_background.webp|color-test|CC-BY-SA-3.0|Dhirad
details/TourEiffel_background.webp|color-tune|CC-BY-SA-3.0|Benh LIEU SONG
details/TowerBridgeLondon_background.webp|color-test|CC-BY-SA-4.0|David Iliff
details/Van_Gogh_The_Night_Cafe_background.webp|color-tune|public domain|Vincent van Gogh
details/VincentVanGogh0012_background.webp|color-tune|public domain|Vincent van Gogh
details/VincentVanGogh0013_background.webp|color-tune|public domain|Vincent van Gogh
details/VincentVanGogh0019_background.webp|color-tune|public domain|Vincent van Gogh
details/VincentVanGoghBridge_background.webp|color-tune|public domain|Vincent van Gogh
"""


@dataclass(frozen=True)
class Photo:
    """One line of `PHOTOS`."""

    package: str
    path: str
    split: str
    licence: str
    author: str

    @property
    def file_name(self) -> str:
        """A name that is unique among all packages: `gcompris-qt-data_erase_crab.webp`."""
        parts = [part for part in Path(self.path).parts if part not in ("contents", "images")]
        return "_".join([self.package.split("==")[0], *parts])


def photos() -> list[Photo]:
    """`PHOTOS` as records."""
    found: list[Photo] = []
    package = ""
    for line in filter(None, map(str.strip, PHOTOS.splitlines())):
        if line.startswith("# "):
            package = line[2:]
        else:
            path, split, licence, author = line.split("|")
            found.append(Photo(package, path, split, licence, author))
    return found


def read_rcc(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file in a Qt resource file (`rcc --binary`), for GCompris' pictures.

    Big-endian: a header with the offsets of tree, data and names; tree nodes of 14 bytes (22 from format
    version 2 on, which adds a time stamp), the root first; directories point at their first child.
    """
    blob = path.read_bytes()
    if blob[:4] != b"qres":
        raise SystemExit(f"{path} is not a Qt resource file")
    version, tree, data, names = struct.unpack(">4I", blob[4:20])
    node_size = 14 if version == 1 else 22

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        at = tree + index * node_size
        name_at, flags = struct.unpack(">IH", blob[at : at + 6])
        name_at += names
        (length,) = struct.unpack(">H", blob[name_at : name_at + 2])
        # the name's hash (4 bytes) lies between its length and its characters; the root has no name
        name = blob[name_at + 6 : name_at + 6 + 2 * length].decode("utf-16-be") if index else ""
        if flags & 2:
            count, first = struct.unpack(">II", blob[at + 6 : at + 14])
            for child in range(first, first + count):
                yield from walk(child, f"{prefix}{name}/")
            return
        (data_at,) = struct.unpack(">I", blob[at + 10 : at + 14])
        data_at += data
        (size,) = struct.unpack(">I", blob[data_at : data_at + 4])
        content = blob[data_at + 4 : data_at + 4 + size]
        # pictures are stored as they are; zlib-packed files carry their unpacked size in 4 bytes
        yield prefix + name, zlib.decompress(content[4:]) if flags & 1 else content

    yield from walk(0, "")


def download(package: str, kind: str, work: Path) -> Path:
    """Fetch and unpack one package below `work` with the system's own client; return the unpacked folder."""
    unpacked = work / package.split("==")[0]
    if unpacked.is_dir():
        return unpacked
    fetched = work / "packages" / package.split("==")[0]
    fetched.mkdir(parents=True, exist_ok=True)
    if kind == "wheel":
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        if "==" in package:  # an old release without a wheel for today's Python; only its data counts
            command += ["--python-version", "3.8", "--implementation", "cp", "--abi", "cp38"]
            command += ["--platform", "manylinux1_x86_64"]
        subprocess.run([*command, package], cwd=fetched, check=True)
        with zipfile.ZipFile(next(fetched.glob("*.whl"))) as wheel:
            wheel.extractall(unpacked)
    else:
        subprocess.run(["apt-get", "download", "-q", package], cwd=fetched, check=True)
        subprocess.run(["dpkg", "-x", str(next(fetched.glob("*.deb"))), str(unpacked)], check=True)
    return unpacked


def collect(out: Path, work: Path) -> None:
    """Download every package of `SOURCES` and copy the listed photographs to `out`."""
    wanted = photos()
    for split in SPLITS:
        (out / split).mkdir(parents=True, exist_ok=True)
    for package, (kind, folder, _) in SOURCES.items():
        root = download(package, kind, work) / folder
        mine = [photo for photo in wanted if photo.package == package]
        resources: dict[str, dict[str, bytes]] = {}
        for photo in mine:
            target = out / photo.split / photo.file_name
            if kind == "rcc":
                activity, name = photo.path.split("/")
                if activity not in resources:
                    files = read_rcc(root / f"{activity}.rcc")
                    resources[activity] = {path.rsplit("/", 1)[-1]: content for path, content in files}
                target.write_bytes(resources[activity][name])
            else:
                shutil.copyfile(root / photo.path, target)
        print(f"{package}: {len(mine)} photographs")
    rows = ["split\tfile\tpackage\tlicence\tauthor"]
    rows += [f"{p.split}\t{p.file_name}\t{p.package}\t{p.licence}\t{p.author}" for p in wanted]
    (out / "CREDITS.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    counts = (f"{sum(photo.split == split for photo in wanted)} {split}" for split in SPLITS)
    print(f"{', '.join(counts)}, in {out}")


def main() -> None:
    """Parse the command line and collect."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("photos"), help="where train/ and heldout/ go")
    parser.add_argument("--work", type=Path, default=Path("photo-packages"), help="where packages are kept")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    collect(arguments.out, arguments.work.resolve())


if __name__ == "__main__":
    main()
