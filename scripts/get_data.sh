#!/bin/sh
# Public document packages (Debian) into DATA/pkg/<package> and font packages into
# DATA/fonts/<package>, unpacked, not installed; and descriptions of packages in other scripts into
# DATA/translations/<language>, by apt, beside the machine's own lists; and what the lexicon learns from.
#   scripts/get_data.sh DATA [train|dev|fonts|scripts|lexicon|pictures|speech|all]
# pictures: see get_pictures.sh, which calls this; speech: sounds, words, what speaks, and the asterisk
# prompts, which are for measuring (mini_speech.py): no training reads them.
# Without apt: put the same folders there by other means; the Python scripts only look at DATA.
set -eu
data=${1:?folder}; what=${2:-all}
train="texlive-publishers-doc texlive-pictures-doc texlive-latex-recommended-doc texlive-science-doc
texlive-humanities-doc texlive-lang-english r-doc-pdf erlang-doc db5.3-doc linuxcnc-doc-en pari-doc"
scripts="texlive-lang-cyrillic unicode-cldr-core"
languages="ru uk el"
lexicon="unicode-cldr-core wordnet-base tuxpaint-stamps-default linuxcnc-doc-en linuxcnc-doc-de linuxcnc-doc-es
linuxcnc-doc-fr libreoffice-help-en-us libreoffice-help-de libreoffice-help-es libreoffice-help-fr
libreoffice-help-it manpages manpages-dev manpages-de manpages-es manpages-fr manpages-it"
tongues="en de fr es it da nl pt_BR pl cs sk ru uk sv fi hu ca"
dev="octave-doc installation-guide-amd64 packaging-tutorial debian-history live-manual-pdf lure-of-the-temptress"
fonts="fonts-dejavu-core fonts-dejavu-extra fonts-liberation fonts-liberation2 fonts-lato
fonts-roboto-unhinted fonts-open-sans fonts-crosextra-carlito fonts-crosextra-caladea fonts-urw-base35
fonts-cantarell fonts-freefont-ttf fonts-linuxlibertine fonts-ebgaramond fonts-inter fonts-firacode
fonts-noto-core fonts-hack fonts-cabin fonts-comfortaa fonts-junicode fonts-lmodern fonts-quicksand
fonts-jetbrains-mono fonts-sil-gentium fonts-sil-charis fonts-league-spartan fonts-karla fonts-gfs-didot
fonts-tuffy"
pictures="tuxpaint-stamps-default fonts-noto-color-emoji unicode-cldr-core openclipart-svg"
speech="flite libflite1 wordnet-base tuxpaint-stamps-default sonic-pi-samples sound-theme-freedesktop
asterisk-core-sounds-en asterisk-core-sounds-en-wav"
fetch() { # a folder of DATA, then packages
  folder=$1; shift
  mkdir -p "$data/debs" "$data/$folder"
  for package in "$@"; do
    [ -d "$data/$folder/$package" ] && continue
    (cd "$data/debs" && apt-get download "$package")
    mkdir -p "$data/$folder/$package.part"
    dpkg -x "$data/debs/$package"_*.deb "$data/$folder/$package.part"
    mv "$data/$folder/$package.part" "$data/$folder/$package"
  done
}
translations() { # languages
  for language in "$@"; do
    folder=$(realpath -m "$data/translations/$language")
    [ -n "$(ls "$folder"/lists/*Translation-"${language%_*}"* 2>/dev/null)" ] && continue
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    apt-get -q update -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" \
      -o "Acquire::Languages=$language" -o Acquire::GzipIndexes=false -o APT::Sandbox::User=root
  done
}
case $what in train|scripts|all) fetch pkg $scripts; translations $languages ;; esac
case $what in train|all) fetch pkg $train; fetch fonts $fonts ;; esac
case $what in lexicon|all) fetch pkg $lexicon; translations $tongues ;; esac
case $what in dev|all) fetch pkg $dev ;; esac
case $what in pictures|all) fetch pkg $pictures ;; esac
case $what in speech|all) fetch pkg $speech ;; esac
case $what in fonts) fetch fonts $fonts ;; esac
