#!/bin/sh
# Public document packages (Debian) into DATA/pkg/<package>, unpacked, not installed.
#   scripts/get_data.sh DATA [train|dev|all]
# Without apt: put the same folders there by other means; the Python scripts only look at DATA/pkg.
set -eu
data=${1:?folder}; what=${2:-all}
train="texlive-publishers-doc texlive-pictures-doc texlive-latex-recommended-doc texlive-science-doc
texlive-humanities-doc texlive-lang-english r-doc-pdf erlang-doc db5.3-doc linuxcnc-doc-en pari-doc"
dev="octave-doc installation-guide-amd64 packaging-tutorial debian-history live-manual-pdf lure-of-the-temptress"
case $what in train) list=$train ;; dev) list=$dev ;; *) list="$train $dev" ;; esac
mkdir -p "$data/debs" "$data/pkg"
cd "$data/debs"
for package in $list; do
  [ -d "../pkg/$package" ] && continue
  apt-get download "$package"
  mkdir -p "../pkg/$package.part"
  dpkg -x "$package"_*.deb "../pkg/$package.part"
  mv "../pkg/$package.part" "../pkg/$package"
done
